"""Laws of cost over learners and parameters, with edges and without: `learners`, `scaling`, `scaling_edges`."""
