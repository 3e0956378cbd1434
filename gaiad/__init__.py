"""gaiad: makes a small local model better at its owner's work while the owner sleeps, and never worse.

The map, from the top layer down (imports point downward only; `docs/architecture.md` has the picture):

- `daemon`, `cli`, `__main__` compose the parts and talk to people.
- `control`, `schedule`, `proxy.app`, `gpu.loop`, `learner.loop` are the loops that touch time.
- `db`, `conversations`, `registry`, `keyfile`, `gpu.engine`, `gpu.probe`, `proxy.upstream`, `proxy.relay`,
  `proxy.recorder`, `learner.runner`, `learner.artifacts`, `learner.examiner`, `learner.sources` touch the world.
- `consent`, `idle`, `rollout`, `gpu.handoff`, `proxy.stages`, `proxy.routing`, `proxy.dialect`, `proxy.limits`,
  `proxy.sse`, `learner.cycle`, `learner.dataset`, `learner.exams`, `learner.gate` decide, and touch nothing.
- `errors`, `config`, `curriculum`, `adapter`, `keys`, `learner.protocol` are the nouns.
- `learner.train` is a program of its own, run as a child; nothing imports it.
"""
