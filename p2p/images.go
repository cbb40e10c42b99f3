package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"satchel/store/image"
)

// ImageStatus is one image directory.
type ImageStatus struct {
	Image       string             `json:"image"`
	Policy      string             `json:"policy"`
	Follows     []string           `json:"follows"`        // products that are kept at their newest release in it
	Live        string             `json:"live,omitempty"` // ids of deployments
	Previous    string             `json:"previous,omitempty"`
	Trial       string             `json:"trial,omitempty"`  // armed for the next boot, or being tried
	Booted      string             `json:"booted,omitempty"` // what the machine was started into last
	Deployments []DeploymentStatus `json:"deployments"`      // oldest first
	Error       string             `json:"error,omitempty"`
}

// DeploymentStatus is one tree of an image.
type DeploymentStatus struct {
	ID       string          `json:"id"`
	Path     string          `json:"path"` // of the tree
	Created  time.Time       `json:"created"`
	Releases []ReleaseStatus `json:"releases"`
	Patches  []string        `json:"patches"`
	Local    []LocalChange   `json:"local"` // what of the person's was taken over
	Pinned   bool            `json:"pinned"`
	Failed   bool            `json:"failed"` // its trial, on this machine
}

// Image says what is in the image in dir; empty: the only one. Products need not be followed into it.
func (n *Node) Image(dir string) (out ImageStatus, err error) {
	err = n.withImage(dir, func(p *place) (err error) {
		out, err = n.imageStatus(p)
		return err
	})
	return out, err
}

// Images lists the images that products are followed into.
func (n *Node) Images() (out []ImageStatus, err error) {
	out = []ImageStatus{}
	err = n.call(func() error {
		for _, p := range n.places {
			s, err := n.imageStatus(p)
			if err != nil {
				return err
			}
			out = append(out, s)
		}
		slices.SortFunc(out, func(a, b ImageStatus) int { return cmp.Compare(a.Image, b.Image) })
		return nil
	})
	return out, err
}

func (n *Node) imageStatus(p *place) (ImageStatus, error) {
	s := ImageStatus{Image: p.dir, Policy: n.policyFor(p.dir), Follows: n.followedInto(p), Deployments: []DeploymentStatus{}}
	if s.Follows == nil {
		s.Follows = []string{}
	}
	if p.img == nil {
		if p.err != nil {
			s.Error = p.err.Error()
		}
		return s, nil
	}
	id := func(d image.Deployment, ok bool) string { return d.ID }
	s.Live, s.Previous, s.Trial, s.Booted = id(p.img.Live()), id(p.img.Previous()), id(p.img.Trial()), id(p.img.Booted())
	all, err := p.img.List()
	if err != nil {
		return s, imageError(p.dir, err)
	}
	for _, d := range all {
		one := DeploymentStatus{ID: d.ID, Path: p.img.Tree(d.ID), Created: d.Created, Releases: n.releases(d), Patches: []string{}, Local: localChanges(d), Pinned: d.Pinned, Failed: n.tried(p, d)}
		one.Patches = append(one.Patches, d.Patches...)
		s.Deployments = append(s.Deployments, one)
	}
	return s, nil
}

func localChanges(d image.Deployment) []LocalChange {
	out := []LocalChange{}
	for _, l := range d.Local {
		out = append(out, LocalChange{l.Path, l.What})
	}
	return out
}

// deployment finds one of the image by its id.
func (p *place) deployment(id string) (image.Deployment, error) {
	all, err := p.img.List()
	for _, d := range all {
		if d.ID == id {
			return d, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("%q: %w", id, image.ErrNotFound)
	}
	return image.Deployment{}, err
}

// CloneImage copies a deployment under a name of the person's own, to be kept or to be gone back to.
func (n *Node) CloneImage(ctx context.Context, dir, id, name string) error {
	return n.beside(dir, func(p *place) error {
		_, err := p.img.Clone(ctx, id, name)
		return deploymentError(p.dir, err)
	})
}

// PinDeployment keeps a deployment from being pruned and destroyed, or lets it go.
func (n *Node) PinDeployment(dir, id string, on bool) error {
	return n.beside(dir, func(p *place) error { return deploymentError(p.dir, p.img.Pin(id, on)) })
}

// DiffDeployments lists what is different between two deployments.
func (n *Node) DiffDeployments(ctx context.Context, dir, a, b string) (out []image.Change, err error) {
	err = n.beside(dir, func(p *place) (err error) {
		out, err = p.img.Diff(ctx, a, b)
		return deploymentError(p.dir, err)
	})
	return out, err
}

// DestroyDeployment removes a deployment; not what is live, what is gone back to, what is tried, or what is pinned.
func (n *Node) DestroyDeployment(dir, id string) error {
	return n.beside(dir, func(p *place) error {
		d, err := p.deployment(id)
		if err == nil && d.Pinned {
			return fail(CodeConflict, "unpin it first", fmt.Errorf("destroying %s: it is pinned", id))
		}
		if err == nil {
			err = p.img.Destroy(id)
		}
		return deploymentError(p.dir, err)
	})
}

// ActivateDeployment makes any deployment of an image live, or arms it for the next boot when it is a system.
func (n *Node) ActivateDeployment(ctx context.Context, dir, id string) (res ChangeResult, err error) {
	err = n.beside(dir, func(p *place) error {
		var d image.Deployment
		err := n.call(func() (err error) {
			if d, err = p.deployment(id); err != nil {
				return deploymentError(p.dir, err)
			}
			for _, r := range d.Releases {
				if err := n.belowFloor(r); err != nil {
					return err
				}
			}
			return n.mayApply()
		})
		if err != nil {
			return err
		}
		live, _ := p.img.Live()
		res = ChangeResult{Image: p.dir, When: WhenNothing, Deployment: d.ID, Before: live.ID, Local: localChanges(d), Releases: n.releases(d), Was: n.releases(live)}
		if live.ID == d.ID { // a person who says so wants no other one at the next boot
			if _, armed := p.img.Trial(); armed {
				return deploymentError(p.dir, p.img.Unarm())
			}
			return nil
		}
		if err := n.db.put("left", p.dir, []byte(keyOf(live.Releases))); err != nil {
			return err
		}
		out, err := n.switchTo(context.WithoutCancel(ctx), p, d, false)
		res.When, res.Checks = out.when, out.checks
		return err
	})
	return res, err
}

// beside runs f with the image in dir open, beside the node's goroutine. Nobody else changes what it consists of meanwhile.
func (n *Node) beside(dir string, f func(p *place) error) error {
	c := &change{n: n, req: ChangeRequest{Image: dir}}
	if err := n.call(c.occupy); err != nil {
		return err
	}
	defer n.wg.Done()
	defer n.do(func() {
		c.leave()
		n.advanceAll()
		n.touch()
	})
	return f(c.p)
}

func deploymentError(dir string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, image.ErrNotFound):
		return fail(CodeNotFound, `"satchel image list" names them`, err)
	case errors.Is(err, image.ErrInUse):
		return fail(CodeConflict, "activate another one first, or unpin it", err)
	}
	return imageError(dir, err)
}
