package bus

import (
	"context"
	"time"

	"satchel/p2p"
)

// Node is what this package needs of the node it speaks for. Every method may be called from several goroutines at once, and their
// errors are best of type *p2p.Error, whose code becomes the D-Bus error's name.
type Node interface {
	// Status is a picture of now.
	Status() p2p.Status
	// Changed gives a channel that is closed at the next change of Status. Ask for it before asking for that.
	Changed() <-chan struct{}

	// Check asks the neighbours for news and returns when they have answered.
	Check(ctx context.Context) error
	// Apply makes the ready release live, or live at the next boot. Confirm keeps a release that is on trial. Rollback goes
	// back to the previous one. Each returns the release that it made so.
	Apply(ctx context.Context, product string) (p2p.ReleaseStatus, error)
	Confirm(ctx context.Context, product string) (p2p.ReleaseStatus, error)
	Rollback(ctx context.Context, product string) (p2p.ReleaseStatus, error)
	// Hold lets nothing be activated by itself until then; the zero time ends it.
	Hold(ctx context.Context, until time.Time, why string) error
}
