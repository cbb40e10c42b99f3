package fetch

// Idle reports whether something is missing while nothing is asked for, on its way or being worked on: those who take part have
// nothing more to give. What was said to the session before the call counts. It waits for Run to have begun; after Run it is false.
func (s *Session) Idle() bool {
	answer := make(chan bool, 1)
	s.post(func() { answer <- s.idle() })
	select {
	case idle := <-answer:
		return idle
	case <-s.ended:
		return false
	}
}

func (s *Session) idle() bool {
	_, lists := s.blobs.deadline(s)
	_, asking := s.planner.Deadline()
	return s.busy == 0 && !lists && !asking && s.planner.Idle() && !s.blobs.complete
}
