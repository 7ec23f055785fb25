"""Where it is computed: the mesh, which parameter goes where, and how a step is mapped."""
