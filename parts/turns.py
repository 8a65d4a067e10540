"""What a stream says about one second."""
from dataclasses import dataclass


@dataclass
class StreamTurn:
    """What the model said about one second of a stream."""
    start: int                                           # seconds
    end: int
    state: str                                           # one of STATES
    probs: tuple[float, float, float]                    # of STATES, adding up to 1
    text: str                                            # of a response, else ""
    question: str | None                                 # asked in this turn
    ms: float                                            # from the frames at hand to the last word
    kv: tuple[int, int] = (0, 0)                         # slots of the cache: in use, in all
    cut: str | None = None               # the answer stops short: "length", or for a "question"
    notes: tuple[str, ...] = ()          # questions that were closed or refused, and why
