"""How people ask: the wordings of every kind of question of the toy world.

(a|b) stands for two wordings. {} is the thing, the place of an inner question, or the event as a
sentence of its own ("The red star moves left."); {an} is the thing with its article, {clause} the
event within a sentence ("the red star moves left"), {plain} after "did" ("the red star move left"),
{gerund} as a thing to look out for ("the red star moving left").

FIRST    as in the first edition of Streamo-Bench, whose ten rows a film are asked in these
KNOWN    what training asks, FIRST and paraphrases.py among them: 30 or more of a kind
UNSEEN   kept for the benchmark alone
PLAINEST what most people say, which a part of all training questions is asked in
"""
import re
from itertools import product

from toy.paraphrases import MORE


def expanded(patterns):
    """All wordings of patterns with alternatives: "(Say|Tell me) it." are two."""
    found = []
    for pattern in patterns:
        parts = [part.split("|") for part in re.split(r"[()]", pattern)]
        found += ["".join(choice) for choice in product(*parts)]
    return tuple(found)


# kind: (first edition, more for training, for the benchmark alone)
WORDINGS = {
    # ---- instructions that last
    "Real-time Narration": ((
        "Narrate the video as it happens.", "Comment on every change, second by second.",
        "Give me a live commentary.", "Tell me what you see, the moment it changes.",
        "Keep describing what starts and what stops.", "Be my eyes: report each change at once."), (
        "(Comment on|Report|Describe|Tell me) (everything that starts or stops|each change) live.",
        "(Please narrate|Narrate) this (film|clip|scene) in real time(.| for me.)",
        "Could you narrate this (film|clip) in real time?",
        "Speak up whenever something (starts|stops|changes|begins or ends).",
        "I cannot see the (screen|picture); tell me (what changes, as it changes|every change).",
        "As soon as anything (changes|starts or stops), (say so|tell me)."), (
        "Act as a commentator and cover the video live.", "Talk me through it while it runs.",
        "Let me know at once about anything that starts or ends.",
        "Give a running commentary on this film.", "Say what is new each time something is new.")),
    "Event Caption": ((
        "Describe every event.", "Describe every event in the video once it is over.",
        "Write one sentence for each event when it ends.", "List all events with a description.",
        "What happens in this video? Report every event.", "Caption each event as it finishes."), (
        "(Tell me|Note down|Report) (each event|every event|what happens) once it is (over|done).",
        "(Please describe|Describe|Summarise) (each event|whatever happens) in a sentence.",
        "Whenever an event (ends|is over), (describe it|caption it|say what it was).",
        "(Keep|Make) a list of (all events|what happens) in this (video|film)."), (
        "Give me a sentence on every event after it has finished.",
        "I want a caption for anything that happens here.", "Log the events of this clip.",
        "Once something has happened, put it in words.", "Which events are there? Tell me each.")),
    "Timed Caption": ((
        "Describe every event with its times.", "List all events, each from when to when.",
        "Caption each event and give its time span.", "Write down what happens, and when."), (
        "(Describe|Report|Caption|List|Log) (each|every) event with (times|seconds).",
        "(Describe|Report|Caption|List|Log) all events with (times|seconds).",
        "For (every event|each event), (tell me|say|note) what (happens|it is) and when.",
        "(What happens|Which events are there), and at which (times|seconds)?"), (
        "Keep a log of the events, times included.", "Tell me each event and how long it took.",
        "Put a time on everything that happens.", "Index this film: what, from when, until when.",
        "Every event with its beginning and its end, please.")),
    "Action Caption": ((
        "List each action of {}.", "Follow {} and describe every step it takes.",
        "Report the actions of {}, one by one.", "What does {} do, step by step?",
        "Describe every single action of {}."), (
        "(Watch|Follow|Track|Observe) {} and (tell me|report|say) what it does.",
        "(Watch|Follow|Track|Observe) {} and (tell me|report) each of its actions.",
        "(Tell me|Describe) (everything|all) that {} does(.|, step by step.)",
        "Keep an eye on {} and (describe|report) (each|every) action."), (
        "Stay with {} and caption whatever it does.", "I only care about {}: what does it do?",
        "Ignore all others and describe what {} does.", "Give me the story of {}.",
        "Each time {} has done something, say what.")),
    # ---- groundings
    "Event Grounding": ((
        "Wait for this event and tell me its time span: {}",
        "Tell me from when to when it lasts: {}",
        "Watch for the following event and report its start and end: {}",
        "As soon as it is over, give me the period of this event: {}",
        "Find the beginning and the end of what comes: {}"), (
        "(Tell me|Let me know) when {clause}(.|, and give the times.|, with start and end.)",
        "(As soon as|Once|If) {clause}, (tell me the time span|say from when to when).",
        "(Wait until|Watch until) {clause} and (give me|report) the (times|span).",
        "(Look out for|Wait for|Watch for) {gerund} and (give the times|tell me when it was).",
        "If this (happens|comes), (say when|report its time): {}",
        "(Alert me|Notify me) with the times when {clause}.",
        "I am waiting for {gerund}. (When is it?|Say when it was.)"), (
        "Ping me once {clause}, with its seconds.", "At what time will it be that {clause}?",
        "Should it happen that {clause}, note from when to when.",
        "Keep watching for {gerund}; I need the times.", "Stop the clock for this: {}",
        "Tell me the interval of the next event like this: {}")),
    "Backward Grounding": ((
        "When did this happen? {}", "Look back and give me the time span of this event: {}",
        "From when to when did it last, earlier on? {}", "Recall the period of this past event: {}",
        "You have seen it already; when was it? {}"), (
        "(Do you remember|Can you say|Could you tell me) when (this was|it happened)? {}",
        "(When|At what time|At which second) did you see {gerund}?",
        "(Give me|Tell me|Say) the (times|time span) of {gerund}, earlier in the film.",
        "(Look|Think) back: when was {gerund}?", "(What were|Recall) the times of this? {}",
        "Earlier on, when (was|did you notice) {gerund}?",
        "(When|At what time|At which second|From when to when|And when) did {plain}?",
        "(Did you notice|Have you seen) {gerund}? (When was it?|Give the times.)"), (
        "How long ago was this, in seconds of the film? {}", "Rewind: when exactly was {gerund}?",
        "I missed {gerund}. When was that?", "Find this in what you have seen: {}",
        "In which seconds was there {gerund}?", "Date this event of the past: {}")),
    # ---- around an inner question
    "Time-sensitive QA": ((
        "{} Update your answer whenever it changes.", "{} Keep your answer up to date.",
        "{} Tell me again each time the answer changes.", "{} If that changes later, correct it.",
        "{} Refresh the answer on any change."), (
        "{} (Tell me|Let me know|Say so) (whenever|when|if|as soon as) (that|the answer) changes.",
        "{} (Keep me posted|Keep me up to date|Stay on it|And later?).",
        "(From now on|Until the end|All the time): {}",
        "(Answer now and|Please answer, and) (after|on|at) (each|every) change: {}"), (
        "{} I need to know at any time.", "{} Answer anew when things are different.",
        "{} And go on telling me.", "{} Mind that this may change.", "Monitor this for me: {}")),
    "Offline QA": ((
        "Question: {}", "Answer this question: {}", "A question about the video: {}",
        "Please think and answer: {}", "Here is a question: {}"), (
        "(Think about this|Consider this|Take your time|Think first|No hurry): {}",
        "(Please|Could you|Would you) (answer|consider) (this|the following): {}",
        "(One|Another|A) question (about the clip|about the film|for you|on this scene): {}",
        "{} (Take a moment.|Think first.)"), (
        "Let me ask you something: {}", "I wonder about this: {}", "{} There is no hurry.",
        "When you have thought about it: {}", "Something to think about: {}")),
    "Frame QA": ((
        "Right now: {}", "Look at this moment: {}", "Quick question: {}",
        "Say it at once: {}", "At this very second: {}"), (
        "{}", "(Quick|Quickly|Now|At once|Immediately|Just now|Tell me now|This instant): {}",
        "{} (Answer at once.|Answer right now.|Now, please.|Quick.|At this moment.|Immediately.)",
        "(As of now|In this picture|In this frame|At present|At this point|By now): {}",
        "(A quick one|Answer now|Be quick|Without delay|Short answer): {}"), (
        "In this second: {}", "{} I need it now.", "On the spot: {}",
        "{} Do not wait.", "Judging by what you see now: {}")),
    # ---- drills
    "Acting": ((
        "Each second, say what goes on.", "Say what each shape does, second by second.",
        "What happens right now? Answer every second."), (
        "(Every second|Each second), (tell me|report|describe) what (goes on|happens).",
        "Once a second, (tell me|report|describe) what (goes on|happens).",
        "(Say|Tell me|Describe) what (is going on|the shapes do), (second by second|every "
        "second)."), (
        "A word each second on what they do.", "Per second: who does what?",
        "Report all motion and change each second.", "Give me the action of each second.",
        "What are they doing? Tell me every second.")),
    "Since": ((
        "Each second, say what goes on and since when.",
        "What happens, and since when? Answer every second."), (
        "(Every second|Each second), (tell me|say|report) what (happens|goes on) and since when.",
        "(Say|Tell me|Report) what (is going on|the shapes do) and since when, (second by second|"
        "every second|each second)."), (
        "Per second: who does what, since when?", "Since when, and what? Each second, please.",
        "What goes on, and when did it start? Answer each second.",
        "Report each second what they do and how long already.",
        "Tell me every second what began when.")),
    "Dating": ((
        "When was there {}?", "At which second did you see {}?", "When did the picture show {}?"), (
        "(When|At which second|At what time) (was there|did you see|did we see|was shown) {}?",
        "(Say|Tell me|Recall|Remember) (when there was|when you saw|the second of) {}.",
        "(In which picture|In which frame|In which second) (was there|did you see) {}?"), (
        "Which second had {}?", "Where in time was {}?", "You saw {}. When?",
        "Give me the second of {}.", "Date what you saw of {}.")),
    "Placing": ((
        "Say where each shape is.", "Name all the shapes and their places, every second.",
        "Map the picture, second by second."), (
        "(Each second|Every second|Second by second), (say|tell me|report) (where each shape is|"
        "what is where|where everything is).",
        "(List|Name|Give me) (the shapes|all shapes|each shape) and where (they are|it is), every "
        "second."), (
        "What is where? Answer each second.", "Locate all the shapes, once a second.",
        "Every second I want a map of the shapes.", "Give positions, second by second.",
        "Describe the layout each second.")),
    "Naming": ((
        "Name all the shapes, every second.", "Each second, name what you see.",
        "Say what is in the picture, second by second."), (
        "(Each second|Every second|Second by second), (say|tell me|list|report) (what you see|"
        "which shapes there are|what is there).",
        "(List|Name|Give me) (the shapes|all that you see|all shapes) (each|every) second."), (
        "What is there? Answer each second.", "Identify everything, once a second.",
        "Every second I want the names of the shapes.", "Enumerate the shapes, second by second.",
        "Which shapes do you see? Each second, please.")),
    # ---- inner questions
    "count": (("How many shapes are there?",), (
        "(How many shapes|How many things|How many objects) (do you see|are there|can you see|"
        "are in the picture|are visible)?",
        "(Count the|Tell me the number of|Give me the number of|State the number of) (shapes|things"
        "|objects).",
        "What is the number of (shapes|things|objects)?"), (
        "What do you count, in shapes?", "Could you count what is there?",
        "Shapes in view, how many?", "How many are there?", "How full of shapes is the picture?")),
    "place": (("Where is the {}?",), (
        "(Where|In which place|At what place|In which part of the picture) (is|do you see) the {}?",
        "(Tell me|Say|Show me|Point out) where (the {} is|to find the {}|one finds the {}).",
        "(Can you say|Could you tell me) where (the {} is|to find the {}|one finds the {})?",
        "(What is the place|What is the position|What is the location) of the {}?",
        "(Locate|Find) the {}."), (
        "Whereabouts is the {}?", "I look for the {}; where is it?", "The {}, where is it?",
        "Which spot is the {} in?", "Give me the {}'s position.")),
    "colour": (("What colour is the {}?",), (
        "(What|Which) colour (does the {} have|has the {}|do you see on the {}|is the {} in)?",
        "(Tell me|Say|Name|Give me|Please name) (the colour of the {}|which colour the {} is|"
        "what colour the {} is|the {}'s colour).",
        "(What is the colour of|In which colour do you see) the {}?"), (
        "How is the {} coloured?", "The {}, in what colour is it?", "What hue has the {}?",
        "I need the colour of the {}.", "Of what colour would you say the {} is?")),
    "shape": (("Which shape is {}?",), (
        "(Which of the shapes|What shape|Which thing|What) is {}?",
        "(Tell me|Say|Name|Please name) (the shape that is {}|which shape is {}|what is {}|"
        "the {} shape).",
        "(What is the shape of the {} thing|What shape has the {} thing|What is the {} thing)?",
        "(Which|What) shape (is coloured|has the colour|do you see in|comes in|is painted) {}?"), (
        "There is something {}; what is it?", "What do you see in {}?", "The {} one, what is it?",
        "Of what shape is the {} one?", "What form does the {} one have?")),
    "exists": (("Is there any {}?",), (
        "(Is there|Do you see|Can you see|Do we have|Have we got) (any|some) {}(?| here?)",
        "(Does the picture show|Does the scene have|Do you notice|Can you find|Could there be|"
        "Is there such a thing as) any {}?",
        "(Tell me|Say) (if|whether) (there is|you see) any {}.",
        "(Is there|Do you see|Can you see|Have we got) {an}(?| here?)",
        "Is the {} (|still )there?"), (
        "Any {} in sight?", "Would you see any {} here?", "Does any {} exist in this scene?",
        "I look for any {}; is there one?", "Yes or no: any {}?")),
    "names": (("Name all the shapes.",), (
        "(What|Which shapes|Which things|What things|What shapes) (do|can) you see?",
        "What is (there|it that you see)?", "(Can|Could) you name (the shapes|all shapes)?",
        "(List|Name|Enumerate|Tell me|Give me) (the shapes|all shapes|everything you see).",
        "(Which shapes|What shapes) are (there|in the picture|visible)?"), (
        "What is in the picture?", "Go through all the shapes.", "Describe the scene.",
        "Whatever you see, name it.", "What does the frame hold?")),
    "doing": (("What is the {} doing?",), (
        "(What does the {} do|What happens to the {}|What goes on with the {}|How does the {} "
        "behave|What is the {} up to|What is the state of the {})(?| at the moment?)",
        "(Tell me|Say|Describe) (what the {} is doing|what the {} does|what happens to the {}).",
        "(What do you see the {} do|In what action is the {}|What is going on with the {})?",
        "(Is the {} still, or what is it doing|Does the {} move, or what does it do)?",
        "(What|Which) (action|change) (does the {} show|do you see in the {})?"), (
        "And the {}, what does it do?", "How about the {}, is it doing something?",
        "The {}, how is it active?", "Give me the action of the {}.", "What keeps the {} busy?")),
    "mover": (("Which shape is moving?",), (
        "(Which of the shapes|Which thing|What shape|Which one|What) (moves|is moving|is in motion|"
        "is on the move|travels)?",
        "(Tell me|Say|Name) (which shape moves|which shape is moving|the shape in motion|what is "
        "moving)."), (
        "Who is on the way?", "What do you see moving?", "Which one is it that moves?",
        "Is one of them moving? Which?", "Name the mover.")),
    "last": (("What happened last?",), (
        "(Tell me|Say|Name|Describe) the (last|latest|most recent) event(.| so far.| until now.)",
        "What was the (last|latest|most recent) event(?| so far?| until now?)",
        "(What has just happened|What happened just now|What came last|What did you see last)?"), (
        "What was it that just took place?", "Anything happen lately? What?",
        "The newest event, which is it?", "What have I just missed?", "What is the latest news?")),
    "first": (("What happened first?",), (
        "(Tell me|Say|Name|Describe) the (first|earliest|very first) event(.| so far.| of the "
        "film.)", "What was the (first|earliest|very first) event(?| so far?| of the film?)",
        "(What happened at first|What happened before all else|What came first|What did you see "
        "first)?"), (
        "How did it all begin?", "What was it that took place first?",
        "The oldest event, which is it?", "Go back to the first thing that happened: what was it?",
        "With which event did it start?")),
    "moving": (("Is any shape moving?",), (
        "(Is|Do you see|Can you see) (any|some) (shape|thing|object) moving?",
        "(Does|Do you see) (any shape|anything|something|one of the shapes) move?",
        "Is (anything|something|any of them|one of the shapes) (moving|in motion|on the move)?",
        "(Tell me|Say) (if|whether) (any shape moves|anything is moving)."), (
        "Is there motion?", "Do they all stand still, or is one moving?", "Any movement?",
        "Would you say that something moves?", "Motion, yes or no?"))}

# what people put before and behind a question
BEFORE = ("Hello! {}", "Hi there. {}", "Excuse me. {}", "Please help me. {}", "OK. {}",
          "Hey you! {}", "So: {}", "By the way: {}", "Dear assistant: {}")
BEHIND = ("{} Thanks.", "{} Thank you!", "{} Thanks a lot!", "{} OK?")


def typed(rng, text):
    """A question as people type it: one in eight has something before or behind it, one in eight no
    capitals and perhaps no apostrophes, one in eight no stop at its end."""
    if rng.random() < 1 / 8:
        text = rng.choice(BEFORE + BEHIND).format(text)
    if rng.random() < 1 / 8:
        text = text.lower().replace("'", rng.choice(("'", "")))
    return text.rstrip(".?!") if rng.random() < 1 / 8 else text


def alike(text):
    """A wording without what makes no difference."""
    text = text.lower().replace("color", "colour").replace("'s", " is")
    return re.sub(r"[^a-z{} ]", "", text).strip()


def known(first, more, unseen):
    """The wordings of a kind that training has: none that is kept, or all but equal to one."""
    kept = {alike(text) for text in unseen}
    more = dict.fromkeys(more)                              # each once
    return first + tuple(text for text in more if text not in first and alike(text) not in kept)


FIRST = {kind: first for kind, (first, _, _) in WORDINGS.items()}
UNSEEN = {kind: expanded(unseen) for kind, (_, _, unseen) in WORDINGS.items()}
KNOWN = {kind: known(first, expanded(more + MORE.get(kind, ())), UNSEEN[kind])
         for kind, (first, more, _) in WORDINGS.items()}
PLAINEST = FIRST | {
    "Frame QA": ("{}",), "exists": ("Is there any {}?", "Is there {an}?"),
    "Backward Grounding": (*FIRST["Backward Grounding"], *2 * ("When did {plain}?",)),
    "doing": ("What is the {} doing?", "What does the {} do?"),
    "mover": ("Which shape is moving?", "What is moving?", "Which one moves?")}
