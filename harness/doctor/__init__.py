"""What can be measured on this machine, how well, and what to change to measure more.

``examine`` asks, ``screen`` shows, ``advice`` says what to change. ``square_wave`` is an experiment on a card: does
its energy counter share the blind time of its sensor?
"""
