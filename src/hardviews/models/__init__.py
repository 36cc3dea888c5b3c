"""Any backbone, from a run, a checkpoint or a name: evaluated, embedded with, exported."""
