package store

// AfterSurvey has f called when Publish has looked at the tree, and not read it yet.
func (o *PublishOptions) AfterSurvey(f func()) { o.surveyed = f }

// Hook is asked before each change of the disk.
type Hook = func(op, path string) error

// ErrSkip, from a hook, leaves a change out.
var ErrSkip = errSkip

// OpenHook is Open with a hook.
func OpenHook(dir string, h Hook) (*Store, error) { return open(dir, h) }

// Abandon gives up the store as the end of its process does: nothing is written out or removed.
func (s *Store) Abandon() { s.closeFiles() }
