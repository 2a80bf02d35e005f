"""Energy: who can tell it here (`detect`), how much a call took (`meter`), and joules per token (`runs`). Never a guess from CPU time."""
