"""The assignments in the order of the files: what each takes away, what grades it."""
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Assignment:
    """takes: {file: definitions that the student writes}; gone: {file: definitions that would give
    the answer away, and go too}; untold: {file of tests: functions of it that go for that reason};
    exam: the module of course/exams; tests: what pytest runs to try it. libraries: what must be
    imported before the exam, for it does more at its import than a student's code may."""
    number: int
    key: str
    title: str
    minutes: int
    exam: str
    takes: dict
    tests: str
    gone: dict = None
    untold: dict = None
    libraries: tuple = ()


ASSIGNMENTS = (
    Assignment(1, "bpe", "Byte-pair merges", 60, "model",
               {"parts/tokenizer.py": ("merge_word",)}, "tests/test_streamo.py -k merges",
               gone={"parts/tokenizer.py": ("merge_word_simply",)},
               untold={"tests/test_streamo.py": ("test_the_heap_merges_as_the_textbook_does",)}),
    Assignment(2, "attention", "Attention of a chunk behind a cache", 90, "attention",
               {"streamo.py": ("attention",),
                "parts/attention.py": ("full_attention", "causal_attention", "chunk_mask")},
               "tests/test_streamo.py -k 'attention or chunks'",
               gone={"parts/attention.py": ("fused_attention", "blocked_attention")}),
    Assignment(3, "pooling", "The connector's pooling", 30, "model",
               {"streamo.py": ("pooling_matrix",)}, "tests/test_streamo.py -k features"),
    Assignment(4, "rope", "RoPE", 45, "model",
               {"streamo.py": ("rope", "rotate")}, "tests/test_streamo.py -k rope"),
    Assignment(5, "append", "Appending to the KV cache", 30, "model",
               {"streamo.py": ("KVCache.update",)}, "tests/test_streamo.py -k 'chunks or cache'"),
    Assignment(6, "drop", "Dropping a span, with the keys turned back", 60, "model",
               {"streamo.py": ("KVCache.drop",)},
               "tests/test_streamo.py -k 'drop and not dropout or limits'"),
    Assignment(7, "placing", "Visual tokens among the words", 30, "model",
               {"streamo.py": ("Streamo.forward",)}, "tests/test_streamo.py -k placeholders"),
    Assignment(8, "focal", "The state-focal loss", 60, "loss",
               {"loss.py": ("state_counts", "state_alpha", "state_focal_loss")},
               "tests/test_loss.py"),
    Assignment(9, "states", "From spans to states", 60, "data",
               {"data.py": ("turn_of", "placed", "turns_from_record")},
               "tests/test_data.py -k 'released or instants or standby or late_response or joined "
               "or broken or stream_turns or with_more_turns'"),
    Assignment(10, "labels", "The labels of the renderer", 45, "data",
               {"data.py": ("render",)}, "tests/test_data.py -k 'render or history or appended'"),
    Assignment(11, "split", "The gradient that does not depend on the split", 60, "train",
               {"train.py": ("Learner.backward",)}, "tests/test_train.py -k 'gradient or past'",
               libraries=("torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict")),
    Assignment(12, "loop", "Deciding, and one second of the loop", 120, "stream",
               {"parts/decision.py": ("Decision.state",), "infer.py": ("step",)},
               "tests/test_infer.py tests/test_session.py -k 'naive or silent or trades or reaches "
               "or agree or together or twice'"),
    Assignment(13, "policy", "A policy of eviction", 60, "stream",
               {"infer.py": ("sliding_window",)}, "tests/test_infer.py -k policy"),
    Assignment(14, "score", "IoU, accuracy and recall", 45, "score",
               {"bench/streams.py": ("span_iou", "tsqa_marks")},
               "tests/test_streams.py -k 'iou or dated'"),
)


def chosen(only):
    """The assignments of these numbers, all for None; a ValueError names one that is not there."""
    known = {assignment.number: assignment for assignment in ASSIGNMENTS}
    for number in only or ():
        if number not in known:
            raise ValueError(f"there is no assignment {number}, only 1 to {max(known)}")
    return [known[number] for number in sorted(set(only or known))]
