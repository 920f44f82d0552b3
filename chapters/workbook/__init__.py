"""The workbook: functions of this project with their bodies taken out, for the reader to write.

    python -m chapters.workbook                # writes the exercises into the folder workbook
    python -m chapters.workbook check 8        # grades your solution of exercise 8
    python -m chapters.workbook hint 8         # a nudge; hint 8 2 says more
    python -m chapters.workbook solution 8     # our own solution
    python -m chapters.workbook progress       # grades everything and prints a table

An exercise is made from our source each time it is written (gaps.py), so it is never an old copy. A check runs your function
beside ours on the same random inputs, in float64 and float32. If it is a backward pass, gradcheck compares it with central
differences of the forward pass. The kernel in CUDA runs in the emulator, which finds races. The verdict is a sentence: which
result is wrong, at which index, what it should be and what it is.

Your code runs in a process of its own with a time limit (isolation.py). Files that you have changed are never overwritten.
The exercises are listed in exercises.py, in the order of the book. The folder also holds five_pairs.json, five pairs of
question and answer. Replace them with your own, and do chapter 10's four exercises with them:

    python -m chapters.ch10.exercises --pairs workbook/five_pairs.json
"""
