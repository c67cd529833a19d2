"""What is measured: noise schedules, what a network predicts, its clock, and predictors of noise."""
