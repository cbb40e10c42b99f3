package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"satchel/announce"
	"satchel/store/image"
)

// The apply policies of an image. A person's own "satchel apply" works with each of them.
const (
	PolicyAsk   = "ask"   // lay releases down beside the live ones, and wait for a person
	PolicyAuto  = "auto"  // apply them, too: content at once, systems at the next boot
	PolicyNever = "never" // fetch and pass on, lay nothing down
)

// applying is what the trouble of a place is about when it is laid down and cannot be applied.
const applying = "applying"

// policyFor is the apply policy of the image in dir.
func (n *Node) policyFor(dir string) string {
	if v, ok := n.db.get("policies", dir); ok {
		return string(v)
	}
	return PolicyAsk
}

// SetPolicy sets when releases are applied to the image in dir: PolicyAsk, PolicyAuto or PolicyNever.
func (n *Node) SetPolicy(dir, policy string) error {
	if policy != PolicyAsk && policy != PolicyAuto && policy != PolicyNever {
		return fail(CodeBadInput, "it is ask, auto or never", fmt.Errorf("there is no apply policy %q", policy))
	}
	dir, err := cleanDir(dir)
	if err != nil {
		return err
	}
	return n.call(func() error {
		p := n.places[dir]
		if p == nil {
			return notAnImage(dir)
		}
		if err := n.db.put("policies", dir, []byte(policy)); err != nil {
			return err
		}
		n.lay(p)
		n.touch()
		return nil
	})
}

func notAnImage(dir string) error {
	return fail(CodeNotFound, `"satchel status" lists the images`, fmt.Errorf("nothing is followed into %q", dir))
}

// hold keeps live trees as they are for a while, as during a lesson. It ends by the seconds that this home has counted, since
// the clock may be wrong.
type hold struct {
	Until int64     `json:"until"` // count of seconds
	Wall  time.Time `json:"wall"`  // the same by the clock, to show
	Why   string    `json:"why"`
}

// maxHold is the longest that a hold lasts: a forgotten one must not keep a machine old.
const maxHold = 7 * 24 * time.Hour

// maxWhy is how much of a reason is kept, in bytes.
const maxWhy = 512

// held is the hold that is on.
func (n *Node) held() (h hold, on bool) { return n.hold, n.count.now().Up < n.hold.Until }

// Hold keeps live trees as they are until a time, at most a week from now; a time that is past ends it. Releases are fetched
// and laid down all the same, and a person can still go back.
func (n *Node) Hold(_ context.Context, until time.Time, why string) error {
	return n.call(func() error {
		now := n.count.now()
		left := until.Sub(time.Unix(now.Wall, 0))
		switch {
		case left > maxHold+time.Second: // the clock is read in whole seconds
			return fail(CodeBadInput, "hold again when it ends", errors.New("a hold lasts a week at most"))
		case len(why) > maxWhy:
			return fail(CodeBadInput, "say it shorter", fmt.Errorf("the reason has %d bytes, at most %d are kept", len(why), maxWhy))
		case left <= 0:
			if err := n.db.delete("meta", "hold"); err != nil {
				return err
			}
			n.hold = hold{}
			n.advanceAll()
		default:
			h := hold{now.Up + int64((left+time.Second-1)/time.Second), until, why}
			if err := n.db.putJSON("meta", "hold", h); err != nil {
				return err
			}
			n.hold = h
		}
		n.touch()
		return nil
	})
}

// endHold takes up, once a hold has ended, what it kept from being applied.
func (n *Node) endHold() {
	if _, on := n.held(); on != n.holding {
		if n.holding = on; !on {
			n.advanceAll()
		}
		n.touch()
	}
}

// mayApply says why nothing may be applied now, or nil.
func (n *Node) mayApply() error {
	h, on := n.held()
	if !on {
		return nil
	}
	why := ""
	if h.Why != "" {
		why = ": " + h.Why
	}
	return fail(CodeHeld, `"satchel hold --end" ends it`, fmt.Errorf("nothing is applied until %s%s", h.Wall.Format("2006-01-02 15:04"), why))
}

// applyByPolicy applies what is staged, where nobody need be asked.
func (n *Node) applyByPolicy(p *place, d image.Deployment) {
	if n.policyFor(p.dir) != PolicyAuto || n.mayApply() != nil || p.waiting(applying) || n.tried(p, d) {
		return
	}
	if t, ok := p.img.Trial(); ok && t.ID == d.ID {
		return
	}
	if left, ok := n.db.get("left", p.dir); ok && string(left) == keyOf(d.Releases) {
		return // a person went back from it
	}
	p.busy = true
	n.use(p)
	n.spawn(func(ctx context.Context) {
		_, err := n.switchTo(ctx, p, d, false)
		n.do(func() {
			p.busy = false
			if err != nil {
				p.note(err, applying)
				n.log.Warn("release cannot be applied", slog.String("image", p.dir), slog.Any("err", err))
			}
			n.unuse(p)
			n.touch()
		})
	})
}

// atBoot reports whether a switch to d waits for the next boot: when a system is in it or live, unless there is nothing live to go back
// to, or the image is one of a disk that this machine only looks after, such as a chroot.
func (n *Node) atBoot(p *place, d image.Deployment) bool {
	live, ok := p.img.Live()
	_, booted := p.img.Booted()
	return ok && (booted || len(n.followedInto(p)) > 0) && (n.system(d.Releases) || n.system(live.Releases))
}

// system reports whether one of the releases is of a class that is switched at boot.
func (n *Node) system(releases []image.Release) bool {
	root := n.catalog.Root()
	if root == nil {
		return false
	}
	for _, r := range releases {
		if rule, ok := root.Rule(r.Product); ok && rule.Class == announce.ClassSystem {
			return true
		}
	}
	return false
}

// mayRun reports whether the trust root lets every product of a deployment run programs of its own.
func (n *Node) mayRun(d image.Deployment) bool {
	for _, r := range d.Releases {
		if !n.policy(r.Product).Run {
			return false
		}
	}
	return true
}
