package boot

// ErrSkip, from a hook, leaves a change out.
var ErrSkip = errSkip

// SelectHook is Select with a hook before each change.
func SelectHook(dir string, h func(op, name string) error, boot string) (Choice, error) {
	return selectHook(dir, true, h, boot)
}

// Fake is a disk of a test that has trees.
type Fake interface {
	Disk
	Has(id string) bool
}

type fakeSource struct{ Fake }

func (f fakeSource) lock() error        { return nil }
func (f fakeSource) has(id string) bool { return f.Has(id) }
func (f fakeSource) current() string    { return "" }

// Choose is Select on a disk of a test.
func Choose(f Fake, boot string) Choice { return choose(fakeSource{f}, true, boot) }
