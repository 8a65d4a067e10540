"""What measures: the public benchmarks' rules, the paper's claims, speed, soak, the estimate."""
