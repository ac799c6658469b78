"""The methods: selectors, treatments, schedules and losses, a file each."""
