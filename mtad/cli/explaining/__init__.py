"""The parts of ``mtad explain``: what is asked (``case``, ``history``), the answer (``trial``), its words
(``text``).
"""
