"""Does a card's energy counter integrate all the time, or does it share the blind time of the power sensor?

The load is switched on and off with a known duty at periods in and out of step with the sensor. ``schedule`` says
when, ``load_torch`` does it on a card and ``load_simulated`` in a simulation, ``analysis`` compares counter and
sensor with the known mean, ``experiment`` is all of it, ``show`` the table.
"""
