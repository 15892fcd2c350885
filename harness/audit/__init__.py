"""Everything a result set says, derived once more from its raw files.

``files`` and ``sealed`` look at what is there, ``rebuild`` puts every record together again, ``arithmetic`` and
``verdicts`` check numbers and verdicts with formulas of their own, ``audit`` is all of them.
"""
