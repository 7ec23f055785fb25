"""How it is learned: state, step, optimiser, schedule, and the loop over them."""
