"""The sources of Streamo-Instruct -> raw records, by hand; reading, writing, check and show."""

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from test_data import film, line, record

import data
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
    assert "\033[90m<frame>x4·\033[0m" in coloured and "\033[34;48;5;" in coloured


def test_bad_commands_end_in_one_line(tmp_path):
    import subprocess
    import sys

    run = subprocess.run(
        [sys.executable, records.__file__, "check", str(tmp_path / "gone.json")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "gone.json" in run.stderr
