#!/usr/bin/env python3
"""Writes vectors.json: Shamir shares over GF(2^8), computed in another way than the crate does.

Products by tables of logarithms to the base 3 (the crate: shift and add), values of the polynomial as a sum of
powers (the crate: Horner's rule). The random bytes come from SHA-256, so that the file can be made again.
"""

import functools
import hashlib
import json
import pathlib

EXP, LOG = [0] * 255, [0] * 256
value = 1
for power in range(255):
    EXP[power], LOG[value] = value, power
    doubled = value << 1
    value ^= doubled ^ (0x11B if doubled & 0x100 else 0)  # times 3


def times(a, b):
    return EXP[(LOG[a] + LOG[b]) % 255] if a and b else 0


def power(x, n):
    return 1 if n == 0 else times(x, power(x, n - 1))


def at(polynomial, x):
    """Value at x of the 32 polynomials whose coefficients are the columns."""
    return bytes(
        functools.reduce(
            lambda total, term: total ^ term,
            (times(row[column], power(x, n)) for n, row in enumerate(polynomial)))
        for column in range(32))


def noise(*parts):
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


vectors = []
for case, (threshold, total) in enumerate([(2, 2), (2, 3), (3, 5), (5, 5), (7, 20), (2, 255)]):
    polynomial = [noise(case, n) for n in range(threshold)]
    if case == 2:
        polynomial[0], polynomial[2] = bytes(32), bytes(32)  # zeros at both ends
    if case == 3:
        polynomial[0] = bytes([255] * 32)
    numbers = range(1, total + 1) if total < 100 else [1, 2, 128, 254, 255]
    vectors.append({
        "threshold": threshold,
        "total": total,
        "polynomial": [row.hex() for row in polynomial],
        "shares": {str(x): at(polynomial, x).hex() for x in numbers},
    })

file = pathlib.Path(__file__).with_name("vectors.json")
file.write_text(json.dumps(vectors, indent=1) + "\n")
