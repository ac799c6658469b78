"""Who leaves a pruned model where, seen at its selectors."""


class Exits:
    """Which tokens left a pruned model at which block, and what they were then: {(image, position): block or token}.

    What a decision is shown is the residual stream after the block before, so this is what a forward hook behind a block would see.
    """

    def __init__(self, model):
        self.left, self.tokens = {}, {}
        for number, selector in model.selectors.items():

            def score(seen, budget, number=int(number), original=selector.score):
                decision = original(seen, budget)
                going = seen.live & ~decision.keep
                for image, slot in going.nonzero().tolist():
                    place = int(seen.state.index[image, slot])
                    assert (image, place) not in self.left
                    self.left[image, place], self.tokens[image, place] = number, seen.tokens[image, slot].clone()
                return decision

            selector.score = score
