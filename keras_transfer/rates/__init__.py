"""Learning rates: schedules, and the range test that finds one."""
