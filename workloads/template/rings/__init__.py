"""Which of two rings a point lies on: the smallest workload that trains, is judged, planned and timed."""
