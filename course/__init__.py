"""Coursework made from this repository: assignments that are cut out of it and grade themselves.

README.md is the syllabus. assignments.py says which functions an assignment takes away; cut.py cuts
them out and sets a student's in; exams/ holds what is asked of them; sandbox.py runs that in a
process that can do no harm; grade.py compares and gives points; check.py tries the grader itself on
the bodies in bodies/, right ones and wrong ones.
"""
