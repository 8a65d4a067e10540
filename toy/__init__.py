"""The toy world: short films of coloured shapes with exact annotations, drawn on demand.

    python -m toy --out FOLDER --n 20 --seed 1      20 films (mp4) and their annotations (raw.json)

world.py holds things, events and films; drills.py the other films of the demo's training;
telling.py what can be asked about a film and what is then true, in the words of wordings.py;
dialogues.py the tasks, samples and the benchmark; datasets.py training items of all these;
pretrain.py what stands in for pretrained parts.
"""
