"""Whether to speak: what is made of the three probabilities of a second, and of an answer."""
from dataclasses import dataclass

STATES = ("silence", "standby", "response")              # in the order of streamo.STATES
SILENCE, STANDBY, RESPONSE = range(3)


@dataclass
class Decision:
    """When to speak. The model's wish is its likeliest state; each rule is off by default."""
    threshold: float | None = None       # P(response) that is enough; None: when it is likeliest
    patience: int = 1                    # seconds on end that must want an answer before one comes
    no_repeat: bool = False              # not the last answer again, unless it was asked anew
    wanted: int = 0                      # seconds on end that wanted one so far
    last: str | None = None              # the last answer since the last question
    quiet: int = SILENCE                 # what is said instead

    def state(self, probs):
        """Probabilities of the three states -> index into STATES.

        A second wants an answer when P(response) reaches the threshold or, without one, is the
        largest. It is given when `patience` seconds on end wanted it; after it, and after one that
        did not, they are counted anew. Else `quiet` is said, the likelier of the other two."""
        self.quiet = probs.index(max(probs[:RESPONSE]))
        if self.threshold is None:
            speak = probs[RESPONSE] > probs[self.quiet]
        else:
            speak = probs[RESPONSE] >= self.threshold
        self.wanted = self.wanted + 1 if speak else 0
        if self.wanted < self.patience:
            return self.quiet
        self.wanted = 0                                  # the next answer must be agreed on anew
        return RESPONSE

    def repeats(self, text):
        """Whether this answer, now decoded, is to be taken back."""
        return self.no_repeat and text == self.last

    def may_repeat(self, text):
        """Whether the answer that begins so may come to be taken back."""
        return self.no_repeat and (self.last or "").startswith(text)


def unspoken(model, tokenizer):
    """A bias (V,) of -inf on what no answer may hold: added tokens but <|im_end|>, spare rows."""
    bias = next(model.parameters()).new_zeros(model.config.decoder.vocab_size)
    bias[list(tokenizer.added.values())] = -float("inf")
    bias[len(tokenizer):] = -float("inf")
    bias[tokenizer.id("<|im_end|>")] = 0
    return bias
