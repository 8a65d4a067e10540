"""The sources of Streamo-Instruct -> raw records, by hand; reading, writing, check and show."""

import csv
import io
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data import film, line, record

import data
import eval as ev
import records
from data import turns_from_record
from parts import files
from streamo import FRAME, STATES, DecoderConfig, StreamoConfig, Tokenizer, VisionConfig


def made(source, *items, counts=None):
    counts = Counter() if counts is None else counts
    return [r for item in items for r in records.raw_records(source, item, counts)]


def spans(raw):
    return [(r["content"], r["st_time"], r["end_time"], r["time"]) for r in raw["response"]]


def of(records, task):
    return [r for r in records if r["task_type"] == task]


def grounding(records):
    """The grounding record, with its texts' seconds; forward or backward, and sound."""
    (found,) = [r for r in records if "Grounding" in r["task_type"]]
    asked, texts = int(found["question"][0]["time"]), [r["content"] for r in found["response"]]
    times = [
        tuple(map(int, span))
        for text in texts
        for span in re.findall(r"from (\d+)s to (\d+)s", text)
    ]
    if found["task_type"] == "Event Grounding":
        assert asked <= min(times)[0] and all(end > start for start, end in times)
        assert [(r["st_time"], r["end_time"]) for r in found["response"]] == times
    else:
        assert max(e for _, e in times) + 2 <= asked == int(found["response"][0]["time"])
    return found, times


# ---- each source, from a record of its shape


def test_activitynet():
    item = (
        "v_abc",
        {
            "duration": 82.7,
            "timestamps": [[0.8, 19.8], [17.3, 60.8], [56.2, 79.4]],
            "sentences": ["A woman  sits.", " She dances.", " She bows."],
        },
    )
    records = made("activitynet", item)
    (events,) = of(records, "Event Caption")
    assert events["video_path"] == "v_abc.mp4" and events["source"] == "activitynet"
    assert spans(events) == [
        ("A woman sits.", 0.8, 19.8, ""),
        ("She dances.", 17.3, 60.8, ""),
        ("She bows.", 56.2, 79.4, ""),
    ]
    assert events["question"] == [{"content": events["question"][0]["content"], "time": "0"}]
    found, times = grounding(records)
    assert times[0] in [(0, 20), (17, 61), (56, 80)] and len(records) == 2
    turns = turns_from_record(events, 82)
    assert line(turns)[:21] == "s" * 19 + "Rs" and turns[19].text == "A woman sits."


def test_activitynet_anomalies():
    """Swapped, overlong and empty spans, and a key without v_."""
    counts = Counter()
    item = (
        "abc",
        {
            "duration": 30,
            "timestamps": [[9, 5], [20, 40], [7, 7], [35, 50]],
            "sentences": ["a", "b", "c", "d"],
        },
    )
    records = made("activitynet", item, counts=counts)
    assert spans(of(records, "Event Caption")[0]) == [("a", 5.0, 9.0, ""), ("b", 20.0, 30.0, "")]
    assert records[0]["video_path"] == "v_abc.mp4"
    assert counts == {
        "spans swapped": 1,
        "spans clamped to the video": 2,
        "spans left out: no length or no text": 2,
    }


def test_qvhighlights():
    item = {
        "qid": 1,
        "query": "A man cooks.",
        "duration": 150,
        "vid": "abcdefghijk_210.0_360.0",
        "relevant_windows": [[82, 100], [10, 20]],
        "relevant_clip_ids": [41],
        "saliency_scores": [[1, 2, 3]],
    }
    records = made("qvhighlights", item)
    found, times = grounding(records)
    assert times == [(10, 20), (82, 100)] and found["video_path"] == "abcdefghijk_210.0_360.0.mp4"
    assert "A man cooks." in found["question"][0]["content"]
    assert made("qvhighlights", {**item, "relevant_windows": []}) == []
    for vid in None, "":
        with pytest.raises(ValueError, match="the name of its video is"):
            made("qvhighlights", {**item, "vid": vid})


def test_youcook2_official_and_copy():
    official = (
        "abc",
        {
            "duration": 240.5,
            "recipe_type": "113",
            "annotations": [
                {"segment": [90, 102], "id": 0, "sentence": "cut the bread"},
                {"segment": [114, 127], "id": 1, "sentence": "toast it"},
            ],
        },
    )
    copy = (
        "v_abc",
        {
            "duration": 240.5,
            "timestamps": [[90, 102], [114, 127]],
            "sentences": ["cut the bread", "toast it"],
        },
    )
    for item, path in ((official, "113/abc.mp4"), (copy, "abc.mp4")):
        records = made("youcook2", item)
        assert spans(of(records, "Action Caption")[0]) == [
            ("cut the bread", 90.0, 102.0, ""),
            ("toast it", 114.0, 127.0, ""),
        ]
        assert grounding(records)[0]["video_path"] == path
    dummy = {"duration": 9, "timestamps": [[0, 1]], "sentences": ["None"]}
    assert made("youcook2", ("v_x", dummy)) == []


def test_hacs_has_a_string_duration():
    records = made(
        "hacs",
        (
            "xyz",
            {
                "subset": "training",
                "duration": "92.166667",
                "annotations": [
                    {"label": "Playing lacrosse", "segment": [5.40, 11.60]},
                    {"label": "Playing lacrosse", "segment": [60.2, 99.0]},
                ],
            },
        ),
    )
    (steps,) = of(records, "Action Caption")
    assert spans(steps) == [
        ("Playing lacrosse", 5.4, 11.6, ""),
        ("Playing lacrosse", 60.2, 92.166667, ""),
    ]
    assert steps["video_path"] == "Playing_lacrosse/v_xyz.mp4"
    assert grounding(records)[1] == [(5, 12), (60, 93)]
    assert made("hacs", ("t", {"subset": "testing", "duration": "9.5", "annotations": []})) == []


def test_egotimeqa_asks_when_the_moment_is_over():
    """At its true end; the frames were shrunk around the moment's middle."""
    item = {
        "video_id": "uid",
        "sample_id": None,
        "question": "What did l cut?",
        "answer": "an onion",
        "wrong_answers": ["a", "b", "c"],
        "moment_start_frame": 301.5,
        "moment_end_frame": 600,
        "start_sec": 8.0,
        "end_sec": 22.4,
    }
    for more, over in (({}, 22.4), ({"end_sec": None}, 20)):
        (raw,) = made("egotimeqa", {**item, **more})
        turns = turns_from_record(raw, 30)
        (asked,) = [turn for turn in turns if turn.question]
        assert asked.question == "What did I cut?" and asked.text == "an onion"
        assert over <= asked.second < over + 1 and line(turns).count("R") == 1
        assert "s" not in line(turns) and raw["video_path"] == "uid.mp4"


@pytest.mark.parametrize(
    "times, segments, expected",
    [
        ([[0, 0], [1, 2], [1, 2], [0, 2]], 6, (5, 15)),  # chunks 1..2 are seconds 5..15
        ([[5, 5]] * 4, 6, (25, 30)),
        ([[4, 5], [4, 5]], 5, (20, 25)),
    ],
)
def test_didemo_has_chunks_of_5_seconds(times, segments, expected):
    records = made(
        "didemo",
        {
            "annotation_id": 1,
            "video": "1@N01_2_a.mov",
            "times": times,
            "description": "a dog jumps",
            "num_segments": segments,
        },
    )
    found, seconds = grounding(records)
    assert seconds == [expected] and found["video_path"] == "1@N01_2_a.mov"


def test_coin():
    records = made(
        "coin",
        (
            "abc",
            {
                "duration": 120.5,
                "class": "ReplaceCDDriveWithSSD",
                "start": 50,
                "end": 90,
                "annotation": [
                    {"id": "212", "segment": [60.0, 69.0], "label": "open the lid"},
                    {"id": "213", "segment": [70.0, 80.0], "label": "pull it out"},
                ],
                "subset": "training",
                "recipe_type": 131,
            },
        ),
    )
    assert spans(of(records, "Action Caption")[0])[0] == ("open the lid", 60.0, 69.0, "")
    (dated,) = of(records, "Time-sensitive QA")
    assert '"Replace CD Drive With SSD"' in dated["question"][0]["content"]
    assert spans(dated) == [("open the lid", "", "", "61"), ("pull it out", "", "", "71")]
    turns = turns_from_record(dated, 120)
    assert turns[60].text == "open the lid" and line(turns).count("R") == 2  # <60s-61s>
    grounding(records)


def test_coin_answers_that_change():
    def dated(labels, name="MakeRJ45Cable"):
        steps = [{"segment": [10 * k, 10 * k + 5], "label": a} for k, a in enumerate(labels)]
        item = ("a", {"duration": 99, "class": name, "annotation": steps})
        return of(made("coin", item, counts=counts), "Time-sensitive QA")

    counts = Counter()
    assert dated("aa") == dated("a") == []  # it does not change
    assert counts["questions left out: their answer does not change"] == 2
    (raw,) = dated("aabab")
    assert [(text, time) for text, *_, time in spans(raw)] == [
        ("a", "1"), ("b", "21"), ("a", "31"), ("b", "41")]
    for name, words in (("MakeRJ45Cable", "Make RJ45 Cable"), ("PlayFrisbee", "Play Frisbee"),
                        ("UseSIMCard", "Use SIM Card"), ("Make3DModel", "Make 3D Model")):
        assert f'"{words}"' in dated("ab", name)[0]["question"][0]["content"]


def test_a_grounding_lasts_at_least_a_second():
    item = {"duration": 30, "vid": "a", "query": "He blinks.", "relevant_windows": [[5.2, 5.6]]}
    for k in range(20):
        assert grounding(made("qvhighlights", {**item, "vid": str(k)}))[1] == [(5, 6)]
    windows = [[20, 22], [3.2, 9.1], [9.4, 14], [4, 5], [14, 15.5]]  # 9.1 and 9.4: one second
    many = grounding(made("qvhighlights", {**item, "relevant_windows": windows}))[1]
    assert many == [(3, 14), (14, 16), (20, 22)]


def test_llava_video_describes_a_film_at_its_end(tmp_path):
    item = {"video": "1_2_m_youtube_v0_1/a.mp4",
            "conversations": talk("Tell me all.", "A long one.")}
    quick, long = [told(raw, 70)[0] for raw in (
        *made("llava-video", item),
        *records.raw_records("llava-video", item, Counter(), file="x/1_2_m_cap_processed.json"))]
    assert max(quick) < 9 and long == {69: "A long one."}
    for asked in ("Please provide a detailed description of the video.", "Describe this clip.",
                  "Summarize what happens in the footage."):
        (raw,) = made("llava-video", {**item, "conversations": talk(asked, "A long one.")})
        assert told(raw, 90)[0] == {89: "A long one."} and told(raw, 90)[1] < 6
    for value in ("<video>\nWho?", "Who?\n<image>", " <image> Who?", "<image>\nWho?\n<video>\n"):
        turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "He."}]
        (raw,) = made("llava-video", {**item, "conversations": turns})
        assert raw["question"][0]["content"] == "Who?"
    for turns in ([], turns[1:], turns[:1] * 2, turns + turns[:1]):
        with pytest.raises(ValueError, match="human, gpt"):
            made("llava-video", {**item, "conversations": turns})


JOY = {"video_name": "v.mp4", "video_path": "/d/v.mp4", "task_type": "chat", "source": "s"}


def joy(question, response, **more):
    entries = [[{"content": text, "time": time} for text, time in kind]
               for kind in (question, response)]
    return {**JOY, "question": entries[0], "response": entries[1], **more}


def test_joyai_second_t_is_turn_t():
    """The rows of the format's page: (question's times, response's times) -> turns."""
    for asked, said, turns in (
        ("4", "7", ([4], [7])), ("4", "5,6,7", ([4], [5, 6, 7])), ("0", "0", ([0], [0])),
        ("1", "7.9", ([1], [7])), (4, 7.2, ([4], [7])), ("4,5", "7", ([4, 5], [7])),
        ("", "7", ([], [7])), (None, "7", ([], [7])), ("-3", "7", ([], [7])), ("4", 0, ([4], [])),
    ):
        (raw,) = made("joyai", joy([("Q?", asked)], [("A.", said)]))
        found = turns_from_record(raw, 10)
        asked, said = ([t.second for t in found if value(t)]
                       for value in (lambda t: t.question, lambda t: t.text))
        assert (asked, said) == turns
        assert raw["task_type"] == "Chat" and raw["source"] == "joyai/s"
        assert raw["video_path"] == "/d/v.mp4" and not data.faults(raw)
    nested = joy([("Q?", "1")], [])
    nested["response"] = [[{"content": "a.", "time": "2"}, {"content": "b.", "time": "3"}]]
    assert told(made("joyai", nested)[0], 5) == ({2: "a.", 3: "b."}, 1)
    handed = joy([("Q?", "1")], [("</response> One moment.</delegation> Find it.", "2")])
    assert told(made("joyai", handed)[0], 5) == ({2: "One moment."}, 1)
    for time in ("0:10", "3-5", "x", "1e999"):
        with pytest.raises(ValueError, match="no list of seconds"):
            made("joyai", joy([("Q?", "1")], [("A.", time)]))
    assert made("joyai", joy([], [])) == []


def test_joyai_records_given_as_streamos_are_refused_by_name(tmp_path, capsys):
    for record_ in (
        joy([("Q?", "4")], [("A.", "7")]), joy([("Q?", "4")], [("A.", "5,6")], task_type="QA"),
        joy([("Q?", "4")], [("A.</delegation> B", "5")], task_type="QA"),
        {**joy([("Q?", "4")], [], task_type="QA"), "response": [[{"content": "a", "time": "2"}]]},
    ):
        (wrong,) = data.faults(record_)
        assert "JoyAI-VL-Interaction" in wrong and "convert joyai" in wrong
    stream = {"videos": ["a.mp4"], "task_type": "chat", "source": "s", "messages": [
        {"role": "user", "content": "Q?\n<0.0 seconds>\n<image>"},
        {"role": "assistant", "content": "</silence>"}]}
    assert "convert joyai" in data.faults(stream)[0]
    ours = record([("Q?", 4)], [("A.", 5, 6)])
    assert not data.faults({**ours, "task_type": "event_grounding"})  # with spans: Streamo's own
    ours = {**ours, "video_name": "a"}                      # its answers would be lost
    (tmp_path / "ours.json").write_text(json.dumps(ours))
    with pytest.raises(ValueError, match="nothing usable"):
        records.main(["convert", "joyai", str(tmp_path / "ours.json"), "--out",
                      str(tmp_path / "lost.jsonl")])
    assert "Streamo's: it needs no conversion" in capsys.readouterr().err
    (tmp_path / "one.json").write_text(json.dumps(joy([("Q?", "4")], [("A.", "7")])))
    out = tmp_path / "raw.jsonl"
    assert records.main(["convert", "joyai", str(tmp_path / "one.json"), "--out", str(out)]) == 0
    assert records.main(["check", str(out)]) == 0


def test_llava_video_open_ended_and_multiple_choice():
    asked = "What is cut?\nA. Bread.\nB. Cheese.\nRespond with the letter."
    item = {
        "id": "1",
        "video": "academic/a/split_2.mp4",
        "conversations": [
            {"from": "human", "value": f"<image>\n{asked}"},
            {"from": "gpt", "value": "A."},
            {"from": "human", "value": "Where?"},
            {"from": "gpt", "value": "In a\nkitchen."},
        ],
    }
    first, second = made("llava-video", item)
    assert first["question"][0]["content"] == asked
    ((text, start, end, _),) = spans(second)
    assert text == "In a kitchen." and end == start + 1 == int(second["question"][0]["time"]) + 1
    assert spans(first)[0][0] == "A." and first["video_path"] == item["video"]
    with pytest.raises(ValueError):
        made("llava-video", {**item, "conversations": item["conversations"][:3]})


def test_koala_rows(tmp_path):
    """Commas and newlines in a caption, a time without fraction, a byte order mark, a bad byte."""
    path = tmp_path / "koala.csv"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            "videoID,url,timestamp,caption,clarity_score,aesthetic_score,motion_score,"
            "video_training_suitability_score".split(",")
        )
        rows.writerow(
            ["abc_3", "u", "['0:00:02.733', '0:01:06']", 'A "cat",\nthen 🐈.', 0.5, 3, 2, 4]
        )
        rows.writerow(["abc_4", "u", "['0:00:02.733'", "cut off", 0.5, 3, 2, 4])
        rows.writerow(["abc_5", "u", "['0:00:02', '0:00:04']", "bad XX byte", 0.5, 3, 2, 4])
    path.write_bytes(path.read_bytes().replace(b"XX", b"\xff"))
    counts = Counter()
    rows = list(records.convert("koala", [path], ".", counts))
    assert [r["video_path"] for r in rows] == ["abc_3.mp4", "abc_5.mp4"]
    assert spans(rows[0]) == [('A "cat", then 🐈.', 0, pytest.approx(63.267), "")]
    assert spans(rows[1])[0][0] == "bad � byte"
    assert counts["items refused"] == 1 and counts["records written"] == 2


ET = {"source": "coin", "video": "coin/a.mp4", "duration": 60.5}


def talk(human, gpt):
    return [{"from": "human", "value": "<image>\n" + human}, {"from": "gpt", "value": gpt}]


def test_et_instruct_captions_in_text_and_vid_files():
    text = {
        **ET,
        "task": "dvc",
        "tgt": [36, 44, 49, 57],
        "conversations": talk(
            "Which steps?", "36.0 - 44.0 seconds, wash the apples. 49.0 - 57.0 seconds, peel them."
        ),
    }
    vid = {
        **text,
        "conversations": talk(
            "Which steps?", "<vid> - <vid> seconds, wash the apples. <vid>-<vid> s, peel them."
        ),
    }
    for item in (text, vid):
        (raw,) = made("et-instruct", item)
        assert spans(raw) == [("wash the apples.", 36.0, 44.0, ""), ("peel them.", 49.0, 57.0, "")]
        assert raw["task_type"] == "Event Caption"
    assert made("et-instruct", {**text, "task": "slc"})[0]["task_type"] == "Action Caption"
    with pytest.raises(IndexError):  # fewer times than <vid>
        made("et-instruct", {**vid, "tgt": [36, 44, 49]})


def et(task, gpt, human="What?", **more):
    return {**ET, "task": task, "conversations": talk(human, gpt), **more}


def told(raw, seconds=61):
    """{turn: what is said} and the turn in which the question stands."""
    turns = turns_from_record(raw, seconds)
    (asked,) = [turn.second for turn in turns if turn.question]
    return {turn.second: turn.text for turn in turns if turn.text}, asked


def test_et_instruct_turns_share_their_times():
    for first, second in (
        ("<vid> - <vid> seconds.", "<vid> - <vid> seconds."),
        ("3.0 - 8.0 seconds.", "It is at 20 to 30 s."),
        ("He jumps early.", "And later again."),
    ):
        item = et("tvg", first, "When does he jump?", tgt=[3, 8, 20, 30])
        item["conversations"] += [
            {"from": "human", "value": "And the dog?"}, {"from": "gpt", "value": second}]
        made_of = made("et-instruct", item)
        assert [grounding([raw])[1] for raw in made_of] == [[(3, 8)], [(20, 30)]]
        assert [raw["question"][0]["content"] for raw in made_of] == [
            "When does he jump?", "And the dog?"]


@pytest.mark.parametrize("gpt", [
    "The event happens from 12.3 to 25.8 seconds in the video.",
    "He starts at 12.3 seconds, and he stops at 25.8 seconds.",
    "Between 12.3 and 25.8 s.", "12.3-25.8", "In the middle of the film.",
    "It starts at <vid> and ends at <vid>.",
])
@pytest.mark.parametrize("task", ["tvg", "tal", "epm", "evs"])
def test_et_instruct_spans_in_prose_are_a_grounding(task, gpt):
    found, times = grounding(made("et-instruct", et(task, gpt, tgt=[12.3, 25.8])))
    assert times == [(12, 26)]
    if task == "epm":  # "Where did I put it?" looks back
        assert found["task_type"] == "Backward Grounding"


def test_et_instruct_a_quantity_that_is_also_a_time():
    gpt = "2.0 - 9.0 seconds, add 10 eggs. 10.0 - 25.0 seconds, stir."
    (raw,) = made("et-instruct", et("slc", gpt, tgt=[2, 9, 10, 25]))
    assert spans(raw) == [("add 10 eggs.", 2.0, 9.0, ""), ("stir.", 10.0, 25.0, "")]
    gpt = "5 - 10 seconds, stir. 110.0 - 120.0 seconds, eat."
    (raw,) = made("et-instruct", et("slc", gpt, tgt=[5, 10, 110, 120], duration=150))
    assert spans(raw) == [("stir.", 5.0, 10.0, ""), ("eat.", 110.0, 120.0, "")]


def test_et_instruct_a_question_that_looks_back_is_asked_after_its_event():
    """Also where the film ends with it."""
    for end in (15, 19.5, 20):
        gpt = f"From 12.0 to {end} seconds."
        (raw,) = made("et-instruct", et("epm", gpt, tgt=[12, end], duration=20))
        assert raw["task_type"] == "Backward Grounding" and int(raw["question"][0]["time"]) > end


@pytest.mark.parametrize("gpt", [
    "36.0 - 44.0, wash 2 apples. 49.0 - 57.5, peel them.",
    "<vid> - <vid>: wash 2 apples. <vid> - <vid>: peel them.",
    "36 to 44 seconds: wash 2 apples.\n49 to 57.5 seconds: peel them.",
])
def test_et_instruct_captions_without_the_word_seconds(gpt):
    (raw,) = made("et-instruct", et("slc", gpt, tgt=[36, 44, 49, 57.5]))
    assert spans(raw) == [("wash 2 apples.", 36.0, 44.0, ""), ("peel them.", 49.0, 57.5, "")]
    (raw,) = made("et-instruct", et("dvc", gpt))  if "<vid>" not in gpt else [raw]
    assert spans(raw)[1] == ("peel them.", 49.0, 57.5, "")


def test_et_instruct_starts_alone_are_instants():
    (raw,) = made("et-instruct", et("slc", "12.0 seconds, wash it. 20.5 seconds, go to the sink. "
                                    "31.0 seconds, peel it.", tgt=[12, 20.5, 31]))
    assert raw["task_type"] == "Action Caption"
    assert told(raw)[0] == {12: "wash it.", 20: "go to the sink.", 31: "peel it."}
    for task, tgt in (("vhd", [12, 20]), ("tal", [12, 20]), ("tal", [12, 20, 31])):
        words = ", ".join("<vid>" for _ in tgt) + " seconds."
        (raw,) = made("et-instruct", et(task, words, "When is it best?", tgt=tgt))
        assert told(raw) == ({t: f"At {t}s." for t in tgt}, 0)
        assert raw["question"][0]["content"] == "When is it best?"


def test_et_instruct_asks_after_what_the_question_refers_to():
    src = {"src": [12, 18.5], "human": "What is done in <vid> - <vid>?"}
    (raw,) = made("et-instruct", et("rvq", "He jumps.", **src))
    assert told(raw) == ({19: "He jumps."}, 19)
    (raw,) = made("et-instruct", et("tem", "<vid> - <vid> seconds.", tgt=[40, 45], **src))
    assert grounding([raw])[1] == [(40, 45)] and told(raw)[1] >= 19
    (raw,) = made("et-instruct", et("tem", "<vid> - <vid> seconds.", tgt=[3, 8], **src))
    assert raw["task_type"] == "Backward Grounding" and told(raw)[1] >= 19
    (raw,) = made("et-instruct", et("gvq", "(A), in <vid> - <vid> s.", tgt=[15, 30], **src))
    assert told(raw) == ({30: "(A), in 15 - 30 s."}, 19)
    (raw,) = made("et-instruct", et("rvq", "He jumps.", "What?", src=[60.5]))  # at the very end
    assert told(raw)[1] == 60


def test_et_instruct_grounding_and_answers():
    found, times = grounding(
        made(
            "et-instruct",
            {
                **ET,
                "task": "tal",
                "tgt": [3, 8, 20, 30],
                "conversations": talk(
                    "When does he jump?", "It happens in <vid> - <vid> and <vid> - <vid> seconds."
                ),
            },
        )
    )
    assert times == [(3, 8), (20, 30)] and found["question"][0]["content"] == "When does he jump?"
    (raw,) = made(
        "et-instruct",
        {
            **ET,
            "task": "rar",
            "src": [12, 18],
            "conversations": talk("What is done in <vid> - <vid>?", "(B) He jumps."),
        },
    )
    assert raw["question"] == [{"content": "What is done in 12 - 18?", "time": "19"}]  # it is over
    assert spans(raw) == [("(B) He jumps.", "", "", "19")]
    (raw,) = made(
        "et-instruct",
        {
            **ET,
            "task": "vhd",
            "tgt": [43],
            "conversations": talk("Where is the highlight?", "It is at <vid> seconds."),
        },
    )
    assert spans(raw) == [("It is at 43 seconds.", "", "", "44")]  # told in <43s-44s>
    (raw,) = made(
        "et-instruct",
        {
            **ET,
            "task": "gvq",
            "tgt": [5, 9],
            "conversations": talk("Which? Also say when.", "(A) at <vid> - <vid> seconds."),
        },
    )
    assert spans(raw) == [("(A) at 5 - 9 seconds.", 5.0, 9.0, "")]
    with pytest.raises(KeyError, match="video"):
        made("et-instruct", {"task": "rar", "image": "a.jpg", "conversations": talk("a", "b")})


def test_dense_short_spans_are_a_narration():
    item = (
        "a",
        {
            "duration": 20,
            "sentences": list("abcdef"),
            "timestamps": [[k, k + 1.5] for k in range(6)],
        },
    )
    raw = made("activitynet", item)[0]
    assert raw["task_type"] == "Real-time Narration"
    assert spans(raw)[:2] == [("a", "", "", "2"), ("b", "", "", "3")]  # not before 1.5 and 2.5
    for mixed in ([*item[1]["timestamps"][:5], [5, 9]], [[0, 9]] * 6):  # ALL are short, or none is
        events = made("activitynet", ("a", {**item[1], "timestamps": mixed}))[0]
        assert events["task_type"] == "Event Caption"
    unordered = {**item[1], "timestamps": item[1]["timestamps"][::-1]}
    assert [text for text, *_ in spans(made("activitynet", ("a", unordered))[0])] == list("fedcba")


def test_wordings_repeat_and_vary():
    two = {"duration": 60, "timestamps": [[3, 9], [20, 30]], "sentences": ["a", "b"]}
    items = [(f"v{k}", two) for k in range(60)]
    first, again = made("activitynet", *items), made("activitynet", *items)
    assert first == again
    for task in ("Event Caption", "Event Grounding", "Backward Grounding"):
        asked = {re.sub(r"\b[ab]$", "", r["question"][0]["content"]) for r in of(first, task)}
        assert len(asked) >= 5
    drills = {"Naming", "Placing", "Acting", "Since", "Dating", "Timed Caption"}
    assert all(len(records.ASK[task]) >= 5 for task in records.ASK if task not in drills)


# ---- files


def test_convert_command(tmp_path, capsys):
    good = {"duration": 60, "timestamps": [[3, 9]], "sentences": ["مرحبا 🐈"]}
    source = tmp_path / "train.json"
    source.write_text(
        json.dumps(
            {
                "v_a": good,
                "v_b": {**good, "timestamps": [[3, float("nan")]]},
                "v_c": {"duration": 1},
                "v_d": {**good, "sentences": ["\ud83d"]},
                "v_e": {**good, "timestamps": []},
                "v_f": 7,
            }
        )
    )
    out = tmp_path / "raw.jsonl"
    assert records.main(["convert", "activitynet", str(source), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    rows = list(files.read_records(out))
    assert [r["video_path"] for r in rows] == ["v_a.mp4", "v_a.mp4"]
    assert "مرحبا 🐈" in out.read_text()
    assert json.loads((tmp_path / "raw.jsonl.counts.json").read_text()) == {
        "items read": 6,
        "items used": 1,
        "items refused": 5,
        "records written": 2,
    }
    assert printed.err.count("refused") == 5
    assert "item 1 refused" in printed.err and "nan" in printed.err
    assert records.check(out) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "raw.jsonl", "raw.jsonl.counts.json", "train.json"]


def test_raw_to_stream_and_back(tmp_path, capsys):
    film(tmp_path / "a.mp4", [0, 1, 2, 3, 4])
    raw = tmp_path / "raw.json"
    gone = {**record(), "video_path": "b.mp4"}
    raw.write_text(json.dumps([record([("Q", 1)], [("A", 2, 3)]), gone]))
    out = tmp_path / "stream.json"
    records.main(["convert", "stream", str(raw), "--videos", str(tmp_path), "--out", str(out)])
    assert "b.mp4" in capsys.readouterr().err
    (stream,) = list(files.read_records(out))
    assert line(turns_from_record(stream, 5)) == "-ssR-"
    assert stream["messages"][1]["content"] == "Q\n<0s-1s>\n<stream>"
    assert stream["videos"] == ["a.mp4"]


def test_read_names_the_file_and_the_line(tmp_path, monkeypatch):
    cases = {
        "cut.json": '[{"a": 1}, {"b"',
        "cut.jsonl": '{"a": 1}\n\n{"b"',
        "number.json": "7",
        "within.json": '{"database": 7}',
        "deep.json": "[" * 100_000,
        "empty.json": "",
    }
    for name, text in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name}: "):
            list(files.read_records(tmp_path / name))
    with pytest.raises(ValueError, match="cut.jsonl: line 3"):
        list(files.read_records(tmp_path / "cut.jsonl"))
    monkeypatch.setattr(files, "LONGEST_LINE", 1000)
    (tmp_path / "one.json").write_text(json.dumps([{"a": 1}] * 1000))  # a list may be one line
    assert len(list(files.read_records(tmp_path / "one.json"))) == 1000
    (tmp_path / "long.jsonl").write_text('{"a": 1}\n"' + "x" * 5000)
    got = []
    with pytest.raises(ValueError, match="long.jsonl: line 2: longer than"):
        got.extend(files.read_records(tmp_path / "long.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="latin.jsonl: line 1"):
        list(files.read_records(tmp_path / "latin.jsonl"))


def test_jsonl_is_read_as_it_streams(tmp_path):
    """Constant memory: the first record is there before a broken line behind it is reached."""
    (tmp_path / "a.jsonl").write_text('{"a": 1}\nbroken')
    assert next(files.read_records(tmp_path / "a.jsonl")) == {"a": 1}


def test_convert_with_nothing_usable_keeps_the_old_output(tmp_path, capsys):
    source, out = tmp_path / "a.json", tmp_path / "out.jsonl"
    out.write_text("old")
    for content in ("[]", "[7, 8]", '{"v_a": {"duration": 9, "timestamps": [], "sentences": []}}'):
        source.write_text(content)
        with pytest.raises(ValueError, match="nothing usable in .*a.json"):
            records.main(["convert", "activitynet", str(source), "--out", str(out)])
        assert out.read_text() == "old"
    assert re.search(r"1 +items read\n +1 +items with nothing", capsys.readouterr().out)
    source.write_text("[{")
    with pytest.raises(ValueError, match="a.json"):
        records.main(["convert", "activitynet", str(source), "--out", str(out)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "out.jsonl"]  # no .tmp


def test_convert_never_writes_over_what_it_reads(tmp_path):
    source = tmp_path / "a.json"
    item = {"duration": 9, "timestamps": [[1, 5]], "sentences": ["a"]}
    source.write_text(json.dumps({"v_a": item}))
    before = source.read_text()
    (tmp_path / "link.json").symlink_to(source)
    (tmp_path / "film.mp4").write_text("a film")
    (tmp_path / "a.jsonl.counts.json").write_text(before)
    for given, out in ((source, "a.json"), (source, "link.json"), (source, "./a.json"),
                       (source, "film.mp4"), (source, "gone/a.jsonl"), (source, "."),
                       (tmp_path / "a.jsonl.counts.json", "a.jsonl")):
        with pytest.raises(ValueError, match="--out"):
            records.main(["convert", "activitynet", str(given), "--out", f"{tmp_path}/{out}"])
    assert source.read_text() == before and (tmp_path / "film.mp4").read_text() == "a film"
    assert records.main(["convert", "activitynet", str(source), "--out", "/dev/null"]) == 0
    assert not Path("/dev/null").is_file() and not Path("/dev/null.counts.json").exists()


def test_convert_stream_on_stream_records_says_so(tmp_path, capsys):
    raw = record([("Q", 1)], [("A", 2, 3)])
    source = tmp_path / "stream.json"
    source.write_text(json.dumps([data.stream_record(raw, turns_from_record(raw, 5))]))
    with pytest.raises(ValueError, match="nothing usable"):
        records.main(["convert", "stream", str(source), "--out", str(tmp_path / "out.jsonl")])
    assert "a stream record already" in capsys.readouterr().err


def test_a_failed_write_leaves_the_old_file(tmp_path):
    out = tmp_path / "a.json"
    out.write_text("old")

    def rows():
        yield {"a": 1}
        raise ValueError("broken source")

    with pytest.raises(ValueError):
        records.write(rows(), str(out))
    assert out.read_text() == "old"
    records.write(iter([{"a": 1}, {"b": 2}]), str(out))
    assert json.loads(out.read_text()) == [{"a": 1}, {"b": 2}]
    records.write(iter([]), str(out))
    assert json.loads(out.read_text()) == []


# ---- check and show


def test_files_of_another_kind_are_told_as_such(tmp_path, capsys):
    """In a line: not in Python's words, and not as five faults a record."""
    for name, blob, said in (
        ("a.json", b'{"films": [1], "n": 2}', "record 0: no annotation: .*, but 'films, n'; want"),
        ("f.json", b"[{}]", "record 0: no annotation: .*, but nothing; wanted are records"),
        ("g.json", b'{"name": "x"}\n{"name": "y"}\n', "g.json: not JSON .*want the ending .jsonl"),
        ("b.jsonl", b'{"name": "x"}\n{"name": "y"}\n', "record 1: no annotation: .* but 'name';"),
        ("c.json", b"a text", r"c.json: not JSON \(Expecting value"),
        ("d.jsonl", b"a text\n", "d.jsonl: line 1: not JSON"),
        ("e.json", b"\x00\xd9\xff", "e.json: not text in UTF-8"),
        (".", None, f"{re.escape(str(tmp_path))}: Is a directory"),
        ("gone.json", None, "gone.json: No such file or directory"),
    ):
        if blob is not None:
            (tmp_path / name).write_bytes(blob)
        try:
            assert records.main(["check", str(tmp_path / name)]) == 2
            out = capsys.readouterr().out.splitlines()
            told = [line for line in out if not line.startswith("broken")]
            assert len(told) == len(out) - 1 == 1 + (name == "b.jsonl")
        except (OSError, ValueError) as error:
            told = [files.in_words(error)]
        assert re.search(said, told[-1]) and "Errno" not in told[-1], told


def test_check(tmp_path, capsys):
    film(tmp_path / "a.mp4", [0, 1, 2, 3, 4])
    (tmp_path / "text.mp4").write_text("no video")
    bad = [
        record([("Q", 1)], [("A", 2, 3)]),  # 0: sound
        record([("Q", 1)], [("A", 2, 9)]),  # 1: past the end
        record([], [("A", 1, 3), ("B", 3, 4)]),  # 2: two events collide
        record([], [("A", 3, 1)]),
        record([], [(" ", 1)]),  # 3, 4
        {**record([("Q", "x")]), "source": None},  # 5: two faults
        {**record(), "video_path": "gone.mp4"},
        {**record(), "video_path": "text.mp4"},
        {**record(), "video_path": "../a.mp4"},
        7,
    ]
    file = tmp_path / "raw.json"
    file.write_text(json.dumps(bad))
    assert records.main(["check", str(file), "--videos", str(tmp_path), "-v"]) == 2
    out = capsys.readouterr().out
    for n, what in (
        (1, "response after the end"),
        (2, "response in the Standby"),
        (3, "runs backwards"),
        (4, "content"),
        (5, "source: missing"),
        (5, "'x'"),
        (6, "gone.mp4"),
        (7, "text.mp4"),
        (8, "leaves"),
        (9, "not a JSON object"),
    ):
        assert re.search(f"record {n}: .*{what}", out), (n, what)
    assert "record 0" not in out
    for what in ("task QA", "source test", "granularity question", "duration up to 30 s"):
        assert re.search(rf"holds +3 +{what}", out)
    assert re.search(r"Silence : Standby : Response = 0.8 : 2.0 : 1.0", out), out
    file.write_text(json.dumps(bad[:3]))
    with pytest.raises(ValueError, match="--videos .*none: no such folder"):
        records.check(file, tmp_path / "none")
    capsys.readouterr()
    assert records.check(file, tmp_path) == 0  # what can be mended is sound, a line a kind
    quiet = capsys.readouterr().out
    assert "record 1" not in quiet and re.search(r"mended +1 +response after the end", quiet)
    assert re.search(r"mended +1 +no question", quiet)
    file.write_text(json.dumps(bad[:1]))
    assert records.check(file, tmp_path) == 0
    (tmp_path / "images").mkdir()
    for k in range(10):  # a folder at its rate: 5 seconds
        Image.new("RGB", (16, 16)).save(tmp_path / "images" / f"{k}.png")
    file.write_text(json.dumps([{**bad[0], "video_path": "images", "fps": 2}]))
    capsys.readouterr()
    assert (
        records.check(file, tmp_path) == 0
        and "holds           2  state </Silence>" in capsys.readouterr().out
    )


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer = Tokenizer.train([data.SYSTEM], 1300)
    tokenizer.add_tokens([*STATES, FRAME])
    tokenizer.save_pretrained(folder)
    config = StreamoConfig(
        VisionConfig(image_size=32),
        DecoderConfig(2048, 64, 64, 1, 2, 1, 32),
        tokenizer.frame_id,
        grid=2,
        coarse_grid=1,
    )
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return str(folder)


def test_show_a_file(tmp_path, model, capsys):
    film(tmp_path / "a.mp4", [0, 1, 2, 3])
    file = tmp_path / "raw.json"
    file.write_text(json.dumps([record(), record([("Q?", 1)], [("A.", 2, 2)])]))
    strip = tmp_path / "strip.png"
    folder = ["--videos", str(tmp_path), "--model", model]
    records.main(["show", str(file), *folder, "--index", "1", "--strip", str(strip)])
    out = capsys.readouterr().out
    # - s R -: alpha = 4 / (3 * 2) = 0.67 for Silence, 4 / 3 for the other two
    assert "Q?\n<0s-1s>\n<frame>x4<|im_end|>\n" in out.replace("·", "") and "Q·?" in out
    assert out.count("[</Silence> 0.67][<|im_end|>]") == 2 and out.count("[</Standby> 1.33]") == 1
    assert "[</Response> 1.33][ ][A][.][<|im_end|>]" in out and "\033" not in out
    image = np.asarray(Image.open(strip))
    assert image.shape == (116, 1040, 3) and tuple(image[50, 1]) == (0x6B, 0xAE, 0xD6)
    assert abs(int(image[50, 50, 0]) - 20) < 5 and abs(int(image[50, 50 + 104 * 3, 0]) - 80) < 5
    with pytest.raises(ValueError, match="--index 2"):
        records.main(["show", str(file), *folder, "--index", "2"])


def test_show_a_toy_sample_in_colour(model, capsys, monkeypatch):
    records.main(["show", "--model", model])
    plain = capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    records.main(["show", "--model", model])
    coloured = capsys.readouterr().out
    assert "\033[" not in plain and "toy 0/full/0" in plain
    assert "In brackets: what is learnt" in plain and "Coloured: what is learnt" in coloured
    assert "\033[90m<frame>x4·\033[0m" in coloured and "\033[34;48;5;" in coloured


def test_streamo_instruct_as_users_have_it(tmp_path, capsys):
    """Accepted as the release accepts it, and counted: an absolute path inside the folder, a name
    without extension, Event_Grounding, blank times, a record alone; no question is told."""
    film(tmp_path / "a.mp4", [0, 1, 2, 3, 4])
    sound = {**record([("Q", " ")], [("A", 2, 3)]), "task_type": "Event_Grounding"}
    sound["response"][0]["time"] = "  "
    for path, what in ((str(tmp_path / "a.mp4"), "absolute video path"), ("a", "without extension"),
                       (str(tmp_path / "a"), "absolute video path")):
        file = tmp_path / "one.json"
        file.write_text(json.dumps({**sound, "video_path": path}))
        assert records.main(["check", str(file), "--videos", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        for line_ in (f"mended +1 +.*{what}", "mended +2 +blank time",
                      "holds +1 +task Event Grounding",
                      "mended +1 +underscores"):
            assert re.search(line_, out), (line_, out)
    assert records.main(["check", str(file), "--videos", str(tmp_path / "..")]) == 0
    for videos in (["a.mp4"], "a.mp4"):  # a raw record with the stream format's key
        assert not data.faults({**sound, "video_path": "", "videos": videos}, tmp_path)
        assert data.stream_record({**sound, "video_path": "", "videos": videos}, [])["videos"] == [
            "a.mp4"]
    (tmp_path / "other").mkdir()
    assert records.main(["check", str(file), "--videos", str(tmp_path / "other")]) == 2
    assert "leaves the video folder" in capsys.readouterr().out
    (tmp_path / "a.mkv").write_text("which of the two?")
    assert records.main(["check", str(file), "--videos", str(tmp_path)]) == 2
    assert "a.mp4, a.mkv" in capsys.readouterr().out
    file.write_text(json.dumps([record([], [("A", 2, 3)])]))
    assert records.main(["check", str(file), "-v"]) == 0
    assert "record 0: no question" in capsys.readouterr().out
    file.write_text("[]")
    with pytest.raises(ValueError, match="no records"):
        records.main(["check", str(file)])


def test_bounds_name_the_record(tmp_path, model):
    images = tmp_path / "images"
    images.mkdir()
    for k in range(2):
        Image.new("RGB", (16, 16)).save(images / f"{k}.png")
    raw = {**record([("Q", 1)], [("A", 2)]), "video_path": "images"}
    file = tmp_path / "raw.json"
    for more, what in (({"fps": 1e-9}, "fps: 1e-09 images per second"), ({"fps": 0}, "fps: 0"),
                       ({"fps": 1e9}, "fps: "), ({"duration": 9_999_999}, "duration: .*86400 s"),
                       ({"response": [{"content": "A", "time": 9_999_999}]}, "response.0.: time")):
        file.write_text(json.dumps([raw, {**raw, **more}]))
        with pytest.raises(ValueError, match=f"raw.json: record 1: {what}"):
            records.main(["show", str(file), "--videos", str(tmp_path), "--model", model])
    file.write_text(json.dumps([{**raw, "fps": 1 / 60}]))  # a time lapse: two pictures, two minutes
    assert records.count_seconds(images, 1 / 60) == 120
    assert records.main(["show", str(file), "--videos", str(tmp_path), "--model", model]) == 0


@pytest.mark.parametrize("words, what", [
    (["show", "--videos", "x"], "--videos: of records"),
    (["convert", "coin", "x.json", "--videos", "x", "--out", "y.jsonl"], "--videos: coin is"),
    (["check", "x.json", "--videos", ""], "--videos"),
    (["show", "x.json", "--strip", ""], "--strip")])
def test_options_without_effect_or_name_are_refused_in_a_line(words, what, capsys):
    with pytest.raises(SystemExit) as end:
        records.main(words)
    err = capsys.readouterr().err
    assert end.value.code == 2 and what in err and err.count("\n") == 1


def test_a_strip_is_never_drawn_over_an_input(tmp_path, model):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "0.png")
    before = (tmp_path / "images" / "0.png").read_bytes()
    file = tmp_path / "raw.json"
    file.write_text(json.dumps([{**record([("Q", 1)], []), "video_path": "images"}]))
    for strip in ("raw.json", "images/0.png", "images", "a.jpg"):
        with pytest.raises(ValueError, match="--strip"):
            records.main(["show", str(file), "--videos", str(tmp_path), "--model", model,
                          "--strip", str(tmp_path / strip)])
    assert (tmp_path / "images" / "0.png").read_bytes() == before
    (tmp_path / "link.png").symlink_to(tmp_path / "model" / "tokenizer.json")
    with pytest.raises(ValueError, match="would write over --model"):
        records.main(["show", str(file), "--videos", str(tmp_path), "--model", model,
                      "--strip", str(tmp_path / "link.png")])


def test_show_works_in_any_folder_and_on_an_ascii_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert records.main(["show"]) == 0
    print("é")  # whatever a sample says
    sys.stdout.flush()
    shown = sys.stdout.buffer.getvalue()
    assert b"<|im_start|>_system\n" in shown and b"</Silence>" in shown and b"\\xb7" not in shown


@pytest.mark.long
def test_bad_commands_end_in_one_line(tmp_path):
    import subprocess

    run = subprocess.run(
        [sys.executable, records.__file__, "check", str(tmp_path / "gone.json")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "gone.json" in run.stderr


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_standard_output_is_one_line(tmp_path):
    import subprocess

    (tmp_path / "raw.json").write_text(json.dumps([record([("Q", 1)], [("A", 2)])]))
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, records.__file__, "check", str(tmp_path / "raw.json")],
            stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "standard output" in run.stderr


def test_a_file_of_another_kind_is_refused_in_words(tmp_path, capsys):
    """Not by the call that failed."""
    foreign = tmp_path / "raw.json"
    foreign.write_text(json.dumps([{"video_name": "a", "question": [], "response": []}] * 2))
    out, scores = str(tmp_path / "out.jsonl"), str(tmp_path / "scores.json")
    for source in ("coin", "didemo", "hacs", "llava-video", "et-instruct"):
        with pytest.raises(ValueError, match="nothing usable in"):
            records.main(["convert", source, str(foreign), "--out", out])
        said = capsys.readouterr().err
        assert re.search(rf"item 1 refused: .*\b{source}\b", said)
        assert not re.search(r"\w+Error|argument|object", said.replace("an object,", "")), said
    (tmp_path / "deep.json").write_text("[" * 10**5 + "]" * 10**5)
    for source, bench in (("coin", "ovo"), ("didemo", "mvbench")):
        with pytest.raises(ValueError, match="nested too deep"):
            records.main(["convert", source, str(tmp_path / "deep.json"), "--out", out])
        with pytest.raises(SystemExit):
            ev.main(["score", bench, str(tmp_path / "deep.json"), "--out", scores])
        assert "deep.json: nested too deep" in capsys.readouterr().err
    for bench, words in (("raw", "wanted are the answers"), ("ovo", "there is no 'task'")):
        with pytest.raises(SystemExit):
            ev.main(["score", bench, str(foreign), "--out", scores])
        assert f"not a file of {bench}: {words}" in capsys.readouterr().err
