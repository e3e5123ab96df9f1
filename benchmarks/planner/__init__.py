"""What the planner's benchmark measures against: others' cost functions, instances and planners."""
