package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"

	"satchel/announce"
	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// place is an image directory and what is done to it. Owned by the node's goroutine; its job, laying a deployment down, runs
// beside. It is there as long as a product is followed into it or somebody uses it.
//
//	whole releases ──► staging ──► ready ──apply──► live, or armed for the next boot
type place struct {
	dir   string
	img   *image.Image // nil when it cannot be opened
	users int          // who works on img beside the node's goroutine
	stale bool         // to be opened anew as soon as nobody uses it
	busy  bool         // a person changes what it consists of
	job   *job
	trouble
}

// placeAt is the place of a directory. Somebody must use it, or follow a product into it.
func (n *Node) placeAt(dir string) *place {
	p := n.places[dir]
	if p == nil {
		p = &place{dir: dir}
		n.places[dir] = p
	}
	return p
}

// followedInto lists the products that are followed into p.
func (n *Node) followedInto(p *place) (products []string) {
	for _, l := range n.lines {
		if l.place == p {
			products = append(products, l.product)
		}
	}
	slices.Sort(products)
	return products
}

// openPlace opens p's image, if it is not open. What went wrong is noted.
func (n *Node) openPlace(p *place) error {
	if p.img != nil {
		return nil
	}
	img, err := image.Open(p.dir)
	if err != nil {
		err = imageError(p.dir, err)
		p.note(err, "")
		n.log.Warn("image cannot be opened", slog.Any("err", err))
		n.touch()
		return err
	}
	p.img = img
	if p.about == "" { // what it was about is over; other trouble is not
		p.calm()
	}
	return nil
}

// use keeps p's image open until unuse.
func (n *Node) use(p *place) { p.users++ }

func (n *Node) unuse(p *place) {
	p.users--
	n.tidy(p)
}

// reopen has p's image opened anew: its directory may have gone away, and come back.
func (n *Node) reopen(p *place) {
	p.stale = true
	n.tidy(p)
}

// tidy closes the image of a place that nobody needs.
func (n *Node) tidy(p *place) {
	if p.users > 0 {
		return
	}
	unused := len(n.followedInto(p)) == 0
	if p.img != nil && (unused || p.stale) {
		if err := p.img.Close(); err != nil {
			n.log.Warn("closing an image", slog.Any("err", err))
		}
		p.img = nil
	}
	p.stale = false
	if unused && n.places[p.dir] == p {
		delete(n.places, p.dir)
	}
}

func imageError(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fail(CodeNoSpace, "make room on the disk of "+dir, fmt.Errorf("image %q: %w", dir, err))
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES):
		return fail(CodeReadOnly, "mount it read-write, or follow with an image directory that this user can write", fmt.Errorf("image %q: %w", dir, err))
	}
	if CodeOf(err) != "" {
		return err
	}
	return fail(CodeConflict, "", fmt.Errorf("image %q: %w", dir, err))
}

// releaseOf is the release that a announces.
func releaseOf(a *announce.Announcement) image.Release {
	return image.Release{Product: a.Product, Epoch: a.Epoch, Seq: a.Seq, Version: a.Version, Manifest: a.Manifest}
}

// newer reports whether a is of a later number than b.
func newer(a, b image.Release) bool {
	return a.Epoch > b.Epoch || a.Epoch == b.Epoch && a.Seq > b.Seq
}

func isRelease(r image.Release, a *announce.Announcement) bool {
	return r.Manifest == a.Manifest && r.Epoch == a.Epoch && r.Seq == a.Seq
}

// behindLive reports whether a is older than the live release: neighbours know less than this machine did before it lost its
// catalog. Only a person who rolled back, or who replaced the trust root, makes a machine go to a lower number.
func (n *Node) behindLive(p *place, a *announce.Announcement) bool {
	if p == nil || p.img == nil {
		return false
	}
	live, _ := p.img.Live()
	r, ok := live.Release(a.Product)
	if !ok || !newer(r, releaseOf(a)) {
		return false
	}
	_, anew := n.db.get("anew", a.Product)
	return !anew
}

// composition is what p's image should consist of: of each product the newest release that is whole here, else the live one.
// Products that are live and no longer followed stay as they are. It is sorted by product.
// What failed on this machine is left out, and given as left, unless again.
func (n *Node) composition(p *place, products []string, again bool) (want, left []image.Release) {
	live, _ := p.img.Live()
	var failed []image.Release
	if !again {
		failed = n.failedReleases(p)
	}
	for _, r := range live.Releases {
		if !slices.Contains(products, r.Product) {
			want = append(want, r)
		}
	}
	for _, product := range products {
		a, _, ok := n.catalog.Latest(product)
		ok = ok && n.db.complete(a.Manifest) && !n.behindLive(p, &a) && a.MinUpdater <= formatLevel
		if ok && slices.Contains(failed, releaseOf(&a)) {
			left, ok = append(left, releaseOf(&a)), false
		}
		if ok {
			want = append(want, releaseOf(&a))
		} else if r, ok := live.Release(product); ok {
			want = append(want, r)
		}
	}
	slices.SortFunc(want, func(a, b image.Release) int { return cmp.Compare(a.Product, b.Product) })
	return want, left
}

// keyOf names what an image consists of.
func keyOf(releases []image.Release) string {
	var b strings.Builder
	for _, r := range releases {
		fmt.Fprintf(&b, "%s/%d/%d/%v ", r.Product, r.Epoch, r.Seq, r.Manifest)
	}
	return b.String()
}

// deployed finds the deployment that consists of these releases; the newest when a person has made a clone.
func deployed(img *image.Image, want []image.Release) (found image.Deployment, ok bool) {
	all, err := img.List()
	if err != nil {
		return found, false
	}
	key := keyOf(want)
	for _, d := range all {
		if keyOf(d.Releases) == key {
			found, ok = d, true
		}
	}
	return found, ok
}

// lay stages what p should consist of, if that is not there already, and applies it where that is the policy.
func (n *Node) lay(p *place) {
	if p.img == nil && (p.waiting("") || n.openPlace(p) != nil) {
		return
	}
	want, _ := n.composition(p, n.followedInto(p), false)
	key := keyOf(want)
	live, _ := p.img.Live()
	switch {
	case p.busy:
	case p.job != nil:
		if p.job.about != key {
			p.job.end()
		}
	case n.pruning:
	case len(want) == 0, keyOf(live.Releases) == key:
		p.calm()
	case p.waiting(key), n.policyFor(p.dir) == PolicyNever:
	default:
		d, ok := deployed(p.img, want)
		if !ok {
			n.startStage(p, want, false)
			return
		}
		if p.about != applying {
			p.calm()
		}
		n.applyByPolicy(p, d)
	}
}

// startStage lays a deployment down beside the live one.
func (n *Node) startStage(p *place, want []image.Release, converge bool) *job {
	job := &job{about: keyOf(want), want: want, state: StateStaging}
	st := n.staging(p, want, converge)
	n.use(p)
	n.startJob(&p.job, &p.trouble, job, func(ctx context.Context) (err error) {
		job.made, err = st.run(ctx)
		return err
	}, func(err error) {
		n.staged(p, want, err)
		n.unuse(p)
	})
	return job
}

// staging is one deployment that is being laid down. Its fields do not change.
type staging struct {
	n        *Node
	dir      string
	img      *image.Image
	want     []image.Release
	recall   map[string]announce.Announcement // what the catalog says of the releases that are not live, by product
	may      map[string]manifest.Policy
	converge bool
}

func (n *Node) staging(p *place, want []image.Release, converge bool) *staging {
	st := &staging{n: n, dir: p.dir, img: p.img, want: want, recall: map[string]announce.Announcement{}, may: map[string]manifest.Policy{}, converge: converge}
	for _, r := range want {
		st.may[r.Product] = n.policy(r.Product)
		if a, _, ok := n.catalog.Latest(r.Product); ok && isRelease(r, &a) {
			st.recall[r.Product] = a
		}
	}
	return st
}

func (st *staging) run(ctx context.Context) (d image.Deployment, err error) {
	parts, err := st.parts()
	if err != nil {
		return d, err
	}
	if err := st.n.roomToStage(st.dir, st.img, parts); err != nil {
		return d, err
	}
	d, err = st.img.Stage(ctx, image.Plan{Parts: parts, Converge: st.converge}, st.n.store)
	if errors.Is(err, syscall.ENOSPC) {
		return d, fail(CodeNoSpace, `make room, for example with "satchel prune"; staging goes on by itself`, err)
	}
	return d, err
}

// has reports whether a staging lays down what a announces.
func (j *job) has(a *announce.Announcement) bool {
	return slices.ContainsFunc(j.want, func(r image.Release) bool { return r.Product == a.Product && isRelease(r, a) })
}

// parts reads the manifests, and judges them again: they may have come for another release, or before the root changed.
func (st *staging) parts() (parts []image.Part, err error) {
	for _, r := range st.want {
		m, err := st.n.store.Manifest(r.Manifest)
		if err != nil {
			return nil, fmt.Errorf("reading the manifest of %s: %w", r.Product, err)
		}
		if a, ok := st.recall[r.Product]; ok {
			if err := belongs(&m.Header, &a); err != nil {
				return nil, releaseError(err)
			}
		}
		if err := m.Check(st.may[r.Product]); err != nil {
			return nil, policyError(err)
		}
		parts = append(parts, image.Part{Release: r, Manifest: m, Recall: m.Epoch != r.Epoch || m.Seq != r.Seq})
	}
	return parts, nil
}

// staged does what follows a staging that has ended.
func (n *Node) staged(p *place, want []image.Release, err error) {
	switch {
	case err == nil:
		for _, r := range want {
			n.log.Info("release ready", slog.String("product", r.Product), slog.String("version", r.Version))
		}
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrMismatch):
		for _, r := range want {
			n.doubt(r.Manifest)
			n.heal(r)
		}
	case errors.Is(err, context.Canceled), errors.Is(err, syscall.ENOSPC), CodeOf(err) == CodeRefused, CodeOf(err) == CodeNoSpace:
	default:
		n.reopen(p)
	}
}

// heal fetches what is missing of a release that is not the newest of its product; the newest is fetched anyway.
func (n *Node) heal(r image.Release) {
	if a, _, ok := n.catalog.Latest(r.Product); ok && a.Manifest == r.Manifest || n.net == nil || n.sessions[r.Manifest] != nil {
		return
	}
	if hurt := n.mendable(r.Manifest); hurt != nil {
		ctx, cancel := context.WithTimeout(n.ctx, repairPatience)
		n.mend(ctx, *hurt, func() { cancel(); n.advanceAll() })
	}
}
