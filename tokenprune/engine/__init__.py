"""The engine: the contracts of selectors, treatments, schedules and losses, and the loop over blocks that runs them."""
