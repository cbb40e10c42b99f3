package control

import (
	"context"
	"time"

	"satchel/p2p"
	"satchel/store/image"
	"satchel/store/manifest"
)

// Node is what this package needs of the node it speaks for; *p2p.Node is one. Every method may be called from several
// goroutines at once, and their errors are best of type *p2p.Error, whose hint and code reach the other side.
type Node interface {
	// Status is a picture of now.
	Status() p2p.Status
	// Changed gives a channel that is closed at the next change of Status. Ask for it before asking for the Status.
	Changed() <-chan struct{}

	// Trust makes the node believe a trust root: its first, or a later one of the same chain; any other only by force.
	Trust(rootEnvelope []byte, force bool) error
	// Follow keeps the image directory, an absolute path, on a product. Unfollow stops that and leaves the directory as it is.
	Follow(product, imageDir string) error
	Unfollow(product string) error
	// Carry stores and passes on the products that match a pattern. Uncarry stops that.
	Carry(pattern string) error
	Uncarry(pattern string) error
	// Carries lists the patterns, sorted.
	Carries() []string

	// Next says what the next release of a product is to look like and who may sign it.
	Next(product string) (p2p.NextRelease, error)
	// Announce takes a release whose content is in this home's store: verifies, keeps and spreads it.
	Announce(envelope []byte) error

	// Past finds an older release whose content is whole here.
	Past(product string, epoch, seq uint64) (p2p.PastRelease, error)
	// NextTimestamp says what a timestamp of now would say; AddTimestamp takes one on and passes it on.
	NextTimestamp() (p2p.NextTimestamp, error)
	AddTimestamp(envelope []byte) error

	// Wait returns when the product's release seq, or a newer one, is in the state (p2p.StateReady or p2p.StateActive); seq 0 is the
	// newest that is known then. It ends with ctx.
	Wait(ctx context.Context, product string, seq uint64, state string) (p2p.ProductStatus, error)
	// Apply makes the ready release live; Rollback makes the previous one live.
	Apply(ctx context.Context, product string) (p2p.ReleaseStatus, error)
	Rollback(ctx context.Context, product string) (p2p.ReleaseStatus, error)

	// Images lists the images that products are followed into; Image is any one, by its directory, or the only one.
	Images() ([]p2p.ImageStatus, error)
	Image(dir string) (p2p.ImageStatus, error)
	// Change updates an image, or changes what it consists of. It ends with ctx before the switch, and has a result with an error too.
	Change(ctx context.Context, req p2p.ChangeRequest, progress func(p2p.ChangeProgress)) (p2p.ChangeResult, error)
	ActivateDeployment(ctx context.Context, dir, id string) (p2p.ChangeResult, error)
	CloneImage(ctx context.Context, dir, id, name string) error
	DestroyDeployment(dir, id string) error
	PinDeployment(dir, id string, on bool) error
	DiffDeployments(ctx context.Context, dir, a, b string) ([]image.Change, error)
	RollbackImage(ctx context.Context, dir string) (p2p.ChangeResult, error)
	// ConfirmImage keeps what is on trial when its health checks pass.
	ConfirmImage(ctx context.Context, dir string, unchecked bool) (p2p.ChangeResult, error)
	// SetPolicy says when releases are applied to an image, Hold until when none is.
	SetPolicy(dir, policy string) error
	Hold(ctx context.Context, until time.Time, why string) error

	// Manifest is the list of a release that is here; seq 0 is the newest.
	Manifest(product string, seq uint64) (*manifest.Manifest, error)
	// Verify hashes everything again and repairs what it can. The progress function is called from one goroutine at a time.
	Verify(ctx context.Context, progress func(p2p.VerifyProgress)) (p2p.VerifyResult, error)
	// Prune removes what nothing needs any more.
	Prune(ctx context.Context, policy p2p.PrunePolicy) (p2p.PruneResult, error)
	// Export writes releases to a stick, and Import takes what one has. Both end with ctx, and have a result with an error too. The
	// progress function is called from one goroutine at a time.
	Export(ctx context.Context, o p2p.ExportOptions, progress func(p2p.StickProgress)) (p2p.ExportResult, error)
	Import(ctx context.Context, dir string, progress func(p2p.StickProgress)) (p2p.ImportResult, error)
	// Explain says in sentences why this machine is or is not on the newest release of a product; "" asks about the node.
	Explain(product string) ([]string, error)
}
