"""``measure``: any command under the meters, once or against another in counter-balanced pairs.

``signals`` and ``command`` start and follow a command, ``meters`` says what is read meanwhile, ``once`` does one
run and ``pairs`` many; ``store`` keeps what they leave. From there on everything is pure and can be done again:
``figures`` and ``saving`` make numbers of what was kept, ``document`` puts them together, ``text`` shows them.
"""
