"""The toy world: short films of coloured shapes with exact annotations, drawn on demand.

    python -m toy --out FOLDER --n 20 --seed 1      20 films (mp4) and their annotations (raw.json)

world.py holds things, events and films; drills.py the films of the demo's pretraining; dialogues.py
questions and answers; datasets.py training items of all these; pretrain.py what stands in for
pretrained parts.
"""
