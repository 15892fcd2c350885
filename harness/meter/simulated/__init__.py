"""A simulated NVML: cards with a known truth behind the calls of ``pynvml``, driven by a scenario file.

``load`` is the truth, ``scenario`` the file, ``card`` the sensor and the counter over it, ``nvml`` the module
that answers like ``pynvml``, ``meter`` the instrument behind ``--meter simulated:SCENARIO``.
"""
