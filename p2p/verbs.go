package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// Trust makes the node believe a root file: a trust root, or a chain of them that ends with the newest. Without force
// it must be the first one, or go on from the chain that is trusted already.
func (n *Node) Trust(rootFile []byte, force bool) error {
	return n.call(func() error {
		if err := n.catalog.TrustFile(rootFile, force); err != nil {
			return fail(CodeRefused, `check the file with "satchel root verify FILE"; to replace the trust of this machine altogether use --force`,
				fmt.Errorf("trusting the root: %w", err))
		}
		for product, l := range n.lines {
			if force && l.place != nil { // it is a person who starts anew
				if err := n.db.put("anew", product, nil); err != nil {
					return err
				}
			}
		}
		clear(n.ex.seen) // what nobody could verify a moment ago may be good now
		return n.keepCatalog()
	})
}

// call runs f on the node's goroutine.
func (n *Node) call(f func() error) (err error) {
	err = fail(CodeOffline, "start it again", errors.New("the node has stopped"))
	n.do(func() { err = f() })
	return err
}

// Follow keeps the image directory dir on the newest release of product. An image may have several products, as long as no path
// is in two of them.
func (n *Node) Follow(product, dir string) error {
	if err := announce.ValidProduct(product); err != nil {
		return fail(CodeBadInput, "a product is named like xo-os or lessons.maths", err)
	}
	dir, err := cleanDir(dir)
	if err != nil {
		return err
	}
	return n.call(func() error { return n.follow(product, dir) })
}

func (n *Node) follow(product, dir string) error {
	if err := n.mayHoldImage(dir); err != nil {
		return err
	}
	l := n.line(product)
	if l.place != nil && l.place.dir == dir && l.place.img != nil {
		return nil
	}
	p := n.placeAt(dir)
	n.use(p)
	defer n.unuse(p)
	if err := n.openPlace(p); err != nil {
		return err
	}
	if err := n.db.put("follows", product, []byte(dir)); err != nil {
		return err
	}
	n.moveTo(l, p)
	n.advance(l)
	n.lay(p)
	n.touch()
	return nil
}

// moveTo makes p the place that a product is followed into; nil: none.
func (n *Node) moveTo(l *line, p *place) {
	old := l.place
	if old == p {
		return
	}
	l.place = p
	if old != nil {
		old.job.end()
		n.tidy(old)
	}
}

// mayHoldImage says why dir cannot be an image directory, or nil.
func (n *Node) mayHoldImage(dir string) error {
	hint := "an image directory lies outside the store and outside other images' trees"
	if dir == resolve(n.cfg.Home) || within(dir, filepath.Join(n.cfg.Home, "store")) || within(n.cfg.Home, filepath.Join(dir, "deploy")) {
		return fail(CodeConflict, hint, fmt.Errorf("image %q and the store of %q are in each other's way", dir, n.cfg.Home))
	}
	for _, p := range n.places {
		if p.dir != dir && (within(dir, filepath.Join(p.dir, "deploy")) || within(p.dir, filepath.Join(dir, "deploy"))) {
			return fail(CodeConflict, hint, fmt.Errorf("image %q and the image %q lie in one another's trees", dir, p.dir))
		}
	}
	return nil
}

// Unfollow leaves the image as it is and follows no longer.
func (n *Node) Unfollow(product string) error {
	return n.call(func() error {
		l := n.lines[product]
		if l == nil || l.place == nil {
			return fail(CodeNotFound, `"satchel status" lists what is followed`, fmt.Errorf("%s is not followed", product))
		}
		if err := n.db.delete("follows", product); err != nil {
			return err
		}
		n.moveTo(l, nil)
		l.calm()
		n.advance(l)
		n.touch()
		return nil
	})
}

// Carry stores and passes on every product that pattern covers: "name", "prefix.*" or "*".
func (n *Node) Carry(pattern string) error {
	if err := announce.ValidPattern(pattern); err != nil {
		return fail(CodeBadInput, `a pattern looks like xo-os, lessons.* or *`, err)
	}
	return n.call(func() error {
		if err := n.db.put("carries", pattern, nil); err != nil {
			return err
		}
		n.carries[pattern] = true
		n.advanceAll()
		n.touch()
		return nil
	})
}

// Uncarry ends Carry; "satchel prune" then removes what nobody needs.
func (n *Node) Uncarry(pattern string) error {
	return n.call(func() error {
		if !n.carries[pattern] {
			return fail(CodeNotFound, `"satchel carry" lists the patterns`, fmt.Errorf("%s is not carried", pattern))
		}
		delete(n.carries, pattern)
		if err := n.db.delete("carries", pattern); err != nil {
			return err
		}
		n.advanceAll()
		n.touch()
		return nil
	})
}

// Carries lists the patterns.
func (n *Node) Carries() (patterns []string) {
	n.do(func() {
		for p := range n.carries {
			patterns = append(patterns, p)
		}
	})
	slices.Sort(patterns)
	return patterns
}

// NextRelease is what a publisher must know to sign the next release of a product.
type NextRelease struct {
	RootVersion uint64   `json:"root_version"`
	Epoch       uint64   `json:"epoch"`
	Seq         uint64   `json:"seq"`
	Keys        []string `json:"keys"` // ids of the keys that may sign, hexadecimal
	Threshold   int      `json:"threshold"`
	MayWake     bool     `json:"may_wake"`
	Floor       uint64   `json:"floor"`
	MaySetuid   bool     `json:"may_setuid"`
	MayNames    bool     `json:"may_names"`
	MayLinkOut  bool     `json:"may_link_out"`
	MayRun      bool     `json:"may_run"`
	Class       string   `json:"class"`              // content, system or bookkeeping
	Manifest    string   `json:"manifest,omitempty"` // of the newest release that is known

	WakeKeys      []string `json:"wake_keys"` // ids of the keys that must sign, too, for a release to wake
	WakeThreshold int      `json:"wake_threshold"`
}

// Next says under which numbers the next release of product goes.
func (n *Node) Next(product string) (next NextRelease, err error) {
	if err := announce.ValidProduct(product); err != nil {
		return next, fail(CodeBadInput, "a product is named like xo-os or lessons.maths", err)
	}
	err = n.call(func() error {
		root := n.catalog.Root()
		if root == nil {
			return errNoRoot()
		}
		rule, ok := root.Rule(product)
		if !ok {
			return fail(CodeRefused, `add it with "satchel root add-key ROOT KEY --product PATTERN", or publish under a name that the root covers`,
				fmt.Errorf("trust root version %d has no rule for product %s", root.Version, product))
		}
		next = NextRelease{RootVersion: root.Version, Epoch: rule.Epoch, Seq: max(1, rule.Floor), Threshold: rule.Threshold,
			MayWake: rule.MayWake, Floor: rule.Floor, MaySetuid: rule.MaySetuid, MayNames: rule.MayNames, MayLinkOut: rule.MayLinkOut,
			MayRun: rule.MayRun, Class: rule.Class}
		for _, id := range rule.Keys {
			next.Keys = append(next.Keys, id.String())
		}
		if m := n.catalog.Mark(product); m.Epoch == rule.Epoch { // what was refused, or lost its key, uses its number up, too
			next.Seq, next.Floor = max(next.Seq, m.Seq+1), max(next.Floor, m.Floor)
		}
		if a, _, ok := n.catalog.Latest(product); ok {
			next.Manifest = a.Manifest.String()
		}
		if role, ok := root.Roles[announce.RoleWake]; ok {
			next.WakeThreshold = role.Threshold
			for _, id := range role.Keys {
				next.WakeKeys = append(next.WakeKeys, id.String())
			}
		}
		return nil
	})
	return next, err
}

func errNoRoot() error {
	return fail(CodeNoRoot, `trust one first: "satchel trust ROOT"; a publisher makes one with "satchel root new"`,
		errors.New("this home trusts no root yet"))
}

// Announce takes in a release that was made here: its content must be in the store.
func (n *Node) Announce(envelope []byte) error {
	sa, err := announce.ParseAnnouncement(envelope)
	if err != nil {
		return fail(CodeRefused, "make a new one with \"satchel publish\"", fmt.Errorf("reading the announcement: %w", err))
	}
	var prunes int
	n.do(func() { prunes = n.prunes })
	if err := n.checkWhole(sa.Announcement.Manifest); err != nil {
		return err
	}
	m, err := n.store.Manifest(sa.Announcement.Manifest)
	if err == nil {
		err = belongs(&m.Header, &sa.Announcement)
	}
	if err != nil {
		return fail(CodeRefused, "make a new one with \"satchel publish\"", fmt.Errorf("reading the announcement: %w", err))
	}
	return n.call(func() error {
		if n.catalog.Root() == nil {
			return errNoRoot()
		}
		if err := m.Check(n.policy(sa.Product)); err != nil {
			return policyError(fmt.Errorf("announcing %s: %w", sa.Product, err))
		}
		if n.pruning || n.prunes != prunes {
			return fail(CodeConflict, "publish again when it is done", errors.New("the store is being pruned"))
		}
		res := n.catalog.Add(envelope)
		switch {
		case res.Equivocation:
			n.catalogChanged(true)
			return fail(CodeEquivocal, "publish again with the next seq: a higher one heals it", errors.New(res.Reason))
		case res.Verdict == announce.Reject, res.NeedRoot:
			return fail(CodeRefused, `"satchel root show" says which keys may sign`, fmt.Errorf("announcement refused: %s", res.Reason))
		case res.Verdict == announce.Ignore:
			return fail(CodeOlder, "leave --seq out to take the next number", fmt.Errorf("announcement not taken: %s", res.Reason))
		}
		n.usageAt = time.Time{}
		err := errors.Join(n.db.setComplete(sa.Announcement.Manifest, true), n.db.put("published", sa.Announcement.Product, nil),
			n.putHistory(&sa.Announcement))
		if kerr := n.keepCatalog(); kerr != nil || err != nil {
			return errors.Join(kerr, err)
		}
		if r := n.net; r != nil {
			n.spawn(func(ctx context.Context) {
				if err := r.gossip.publish(ctx, envelope); err != nil {
					n.log.Debug("gossiping", slog.Any("err", err))
				}
			})
		}
		return nil
	})
}

// checkWhole makes sure that a release's content is here.
func (n *Node) checkWhole(c cid.Cid) error {
	m, err := n.store.Manifest(c)
	if err != nil {
		return fail(CodeNotFound, "publish the tree into this home first", fmt.Errorf("reading the manifest: %w", err))
	}
	for _, b := range m.Blobs() {
		if !n.store.Has(b.CID) {
			return fail(CodeNotFound, "publish the tree again", fmt.Errorf("blob %s of the release is not in the store", b.CID))
		}
	}
	return nil
}

// Check asks every connected neighbour for news, and tries at once what waits to be tried again. It does not wait for answers.
func (n *Node) Check(context.Context) error {
	return n.call(func() error {
		if n.net == nil {
			return fail(CodeOffline, `start it with "satchel up"`, errors.New("no node runs on this home"))
		}
		for _, l := range n.lines {
			l.retryAt = time.Time{}
		}
		for _, p := range n.places {
			p.retryAt = time.Time{}
		}
		n.askAll()
		n.advanceAll()
		return nil
	})
}

// askAll begins an exchange with every connected neighbour.
func (n *Node) askAll() {
	now := time.Now()
	for p, k := range n.net.table.known {
		if k.connected {
			n.ex.next[p] = now
			n.repeatExchange(p, now)
		}
	}
}

// Wait returns when the release seq of product (0: the newest known, and at least one) or a newer one is
// staged (StateReady) or live (StateActive), or when ctx ends.
func (n *Node) Wait(ctx context.Context, product string, seq uint64, state string) (ProductStatus, error) {
	for {
		changed := n.Changed()
		ps := n.productStatus(product)
		if reached(ps, seq, state) {
			return ps, nil
		}
		select {
		case <-ctx.Done():
			return ps, fail(CodeTimeout, `"satchel explain `+product+`" says why`, fmt.Errorf("waiting for %s: it is %s", product, ps.State))
		case <-n.ended:
			return ps, fail(CodeOffline, "start the node again with \"satchel up\"", errors.New("the node has stopped"))
		case <-changed:
		}
	}
}

func reached(ps ProductStatus, seq uint64, state string) bool {
	at := func(r *ReleaseStatus) bool {
		if r == nil || ps.Newest == nil {
			return false
		}
		if seq == 0 {
			return r.Manifest == ps.Newest.Manifest && r.Epoch == ps.Newest.Epoch && r.Seq == ps.Newest.Seq
		}
		return r.Epoch > ps.Newest.Epoch || (r.Epoch == ps.Newest.Epoch && r.Seq >= seq)
	}
	if state == StateActive {
		return at(ps.Live)
	}
	return at(ps.Live) || at(ps.Ready) || (ps.State == StateHeld && at(ps.Newest))
}

// Apply makes the newest release of product that is whole here live, or arms it for the next boot when it is a system; the
// other products of its image stay what they are. It needs no network.
func (n *Node) Apply(ctx context.Context, product string) (ReleaseStatus, error) {
	if err := n.call(func() error { return n.mayApplyNewest(product) }); err != nil {
		return ReleaseStatus{}, err
	}
	res, err := n.Change(ctx, ChangeRequest{Products: []string{product}}, nil)
	if err != nil {
		return ReleaseStatus{}, err
	}
	for _, r := range res.Releases {
		if r.Product == product {
			r.When = res.When
			return r, nil
		}
	}
	return ReleaseStatus{}, fmt.Errorf("%s is not in %s", product, res.Deployment)
}

// mayApplyNewest says what is in the way of the newest release, which is what a person means.
func (n *Node) mayApplyNewest(product string) error {
	l, err := n.followed(product)
	if err != nil {
		return err
	}
	target, _, ok := n.catalog.Latest(product)
	switch {
	case !ok, !n.db.complete(target.Manifest), target.MinUpdater > formatLevel:
		return n.notReady(l, "nothing newer is staged for "+product)
	case n.behindLive(l.place, &target):
		return fail(CodeOlder, "if the trust root was replaced on purpose, trust it again with --force",
			fmt.Errorf("%s seq %d is older than what is live", product, target.Seq))
	}
	return nil
}

// followed is the line of a product that is followed, with its image open.
func (n *Node) followed(product string) (*line, error) {
	l := n.lines[product]
	if l == nil || l.place == nil {
		return nil, fail(CodeNotFound, "follow it first: satchel follow "+product+" --image DIR", fmt.Errorf("%s is not followed", product))
	}
	return l, n.openPlace(l.place)
}

func (n *Node) notReady(l *line, text string) error {
	hint := `"satchel explain ` + l.product + `" says what it waits for`
	if err := l.failure(); err != nil {
		return fail(CodeNotReady, hint, fmt.Errorf("%s: %w", text, err))
	}
	return fail(CodeNotReady, hint, errors.New(text))
}

// Rollback makes the previous deployment of the image that product is followed into live again, or arms it for the next boot when
// it is a system. It needs no network.
func (n *Node) Rollback(_ context.Context, product string) (out ReleaseStatus, err error) {
	err = n.call(func() error {
		l, err := n.followed(product)
		if err != nil {
			return err
		}
		res, err := n.rollback(l.place)
		if err != nil {
			return err
		}
		for _, r := range res.Releases {
			if r.Product == product {
				out = r
			}
		}
		out.When = res.When
		return nil
	})
	return out, err
}

// RollbackImage is Rollback for the image in dir; empty: the only one. The image need not be one that products are followed into.
func (n *Node) RollbackImage(_ context.Context, dir string) (out ChangeResult, err error) {
	err = n.withImage(dir, func(p *place) (err error) {
		out, err = n.rollback(p)
		return err
	})
	return out, err
}

// withImage runs f, on the node's goroutine, with the image in dir open.
func (n *Node) withImage(dir string, f func(p *place) error) error {
	return n.call(func() error {
		p, err := n.takeImage(dir, nil, false)
		if err != nil {
			return err
		}
		defer n.unuse(p)
		return f(p)
	})
}

func (n *Node) rollback(p *place) (out ChangeResult, err error) {
	if p.busy {
		return out, errBusy(p.dir)
	}
	live, _ := p.img.Live()
	prev, ok := p.img.Previous()
	if _, armed := p.img.Trial(); armed { // that is what a person goes back from
		prev, ok = live, live.ID != ""
	}
	if !ok {
		return out, fail(CodeNotReady, "a deployment is kept from the second apply on", fmt.Errorf("%s has no previous deployment", cmp.Or(words(live), p.dir)))
	}
	for _, r := range prev.Releases {
		if err := n.belowFloor(r); err != nil {
			return out, err
		}
	}
	out = ChangeResult{Image: p.dir, When: WhenNow, Deployment: prev.ID, Before: live.ID, Releases: n.releases(prev), Was: n.releases(live), Local: []LocalChange{}}
	left := live
	if t, armed := p.img.Trial(); armed {
		left = t
	}
	if err := n.db.put("left", p.dir, []byte(keyOf(left.Releases))); err != nil {
		return out, err
	}
	if n.atBoot(p, prev) || left.ID != live.ID {
		out.When = WhenBoot
		if prev.ID == live.ID {
			out.When = WhenNothing // it is live, and the next boot starts it
		}
		_, err = p.img.RollbackAtBoot(bootTries)
	} else {
		_, err = p.img.Rollback()
	}
	if err != nil {
		return out, fmt.Errorf("rolling back %s: %w", p.dir, imageError(p.dir, err))
	}
	n.log.Info("rolled back", slog.String("image", p.dir), slog.String("deployment", prev.ID))
	n.touch()
	return out, nil
}

// Manifest returns what a release consists of; seq 0 is the newest. Older ones are known while they are live,
// previous or staged.
func (n *Node) Manifest(product string, seq uint64) (*manifest.Manifest, error) {
	var m cid.Cid
	err := n.call(func() error {
		if a, _, ok := n.catalog.Latest(product); ok && (seq == 0 || a.Seq == seq) {
			m = a.Manifest
			return nil
		}
		if l := n.lines[product]; l != nil && l.place != nil && l.place.img != nil {
			all, _ := l.place.img.List()
			for _, d := range all {
				if r, ok := d.Release(product); ok && r.Seq == seq {
					m = r.Manifest
					return nil
				}
			}
		}
		return fail(CodeNotFound, `"satchel status" lists what is known`, fmt.Errorf("no release of %s with that number is known here", product))
	})
	if err != nil {
		return nil, err
	}
	list, err := n.store.Manifest(m)
	if err != nil {
		return nil, fail(CodeNotFound, "follow or carry it, and wait until it is here", fmt.Errorf("the content list of %s is not here yet: %w", product, err))
	}
	return list, nil
}

// PruneResult is what Prune removed.
type PruneResult struct {
	Blobs       int      `json:"blobs"`
	Bytes       uint64   `json:"bytes"`
	Deployments []string `json:"deployments"`
}

// PrunePolicy says which deployments stay besides those that are live, previous, tried or pinned.
type PrunePolicy struct {
	Last int `json:"last"` // that many of each image, counted from the one laid down last
	Days int `json:"days"` // and those laid down in that many days
}

// UsualPrune is the policy when nobody says otherwise.
var UsualPrune = PrunePolicy{Last: 2}

// keepReleases is how many releases of a product that was announced from this home are kept, for a recall.
const keepReleases = 3

// Prune removes deployments and blobs that nothing here needs: kept are the newest release of every product
// that is known and whole here, the last three of what was announced here, what is live, previous or staged, and what is being fetched. Fetches pause
// meanwhile; a tree that is being laid down is waited for.
func (n *Node) Prune(ctx context.Context, policy PrunePolicy) (out PruneResult, err error) {
	out.Deployments = []string{}
	if policy.Last < 0 || policy.Days < 0 {
		return out, fail(CodeBadInput, "give numbers from 0 on", errors.New("a prune policy cannot be negative"))
	}
	err = n.call(func() error {
		if n.pruning {
			return fail(CodeConflict, "wait for it", errors.New("the store is being pruned already"))
		}
		for _, p := range n.places {
			if p.busy {
				return errBusy(p.dir)
			}
		}
		n.pruning = true
		n.prunes++
		return nil
	})
	if err != nil {
		return out, err
	}
	defer n.do(func() {
		n.pruning, n.usageAt = false, time.Time{}
		n.advanceAll()
		n.touch()
	})
	if err := n.pause(ctx); err != nil {
		return out, err
	}
	var keep []cid.Cid
	err = n.call(func() (err error) {
		keep, err = n.needed(&out, policy)
		return err
	})
	if err != nil {
		return out, err
	}
	res, err := n.store.Prune(ctx, keep)
	out.Blobs, out.Bytes = res.Blobs, res.Bytes
	if errors.Is(err, store.ErrInUse) {
		return out, fail(CodeConflict, "try again when publishing is done", fmt.Errorf("pruning the store: %w", err))
	}
	if err != nil {
		return out, fmt.Errorf("pruning the store: %w", err)
	}
	return out, nil
}

// pause ends fetches, which keep what they have, and waits for trees that are being laid down.
func (n *Node) pause(ctx context.Context) error {
	for {
		var j *job
		var repairing bool
		n.do(func() {
			for _, l := range n.lines {
				if l.job != nil {
					j = l.job
					j.cancel()
				}
			}
			for _, p := range n.places {
				if p.job != nil {
					j = p.job
				}
			}
			repairing = len(n.sessions) > 0
		})
		if j == nil && repairing {
			return fail(CodeConflict, "try again when it is done", errors.New("damaged blobs are being fetched again"))
		}
		if j == nil {
			return nil
		}
		select {
		case <-j.done:
		case <-ctx.Done():
			return fail(CodeTimeout, "try again", ctx.Err())
		}
	}
}

// needed prunes deployments and lists the manifests whose blobs are to stay; releases that go lose their mark.
func (n *Node) needed(out *PruneResult, policy PrunePolicy) (keep []cid.Cid, err error) {
	add := func(m cid.Cid) {
		if m.Defined() && n.store.Has(m) && !slices.Contains(keep, m) {
			keep = append(keep, m)
		}
	}
	for _, p := range n.places {
		if p.img == nil {
			continue
		}
		ids, err := p.img.Prune(image.Keep{Last: policy.Last, Days: policy.Days})
		out.Deployments = append(out.Deployments, ids...)
		if errors.Is(err, image.ErrBusy) {
			return nil, fail(CodeConflict, "try again when it is done", fmt.Errorf("pruning %s: %w", p.dir, err))
		}
		if err != nil {
			return nil, fmt.Errorf("pruning %s: %w", p.dir, err)
		}
		all, err := p.img.List()
		if err != nil {
			return nil, err
		}
		for _, d := range all {
			for _, r := range d.Releases {
				add(r.Manifest)
			}
		}
	}
	for _, h := range n.catalog.Heads() {
		a, _, ok := n.catalog.Latest(h.Product)
		l := n.lines[h.Product]
		if ok && (n.published(h.Product) || l != nil && l.place != nil || n.carried(h.Product)) {
			add(a.Manifest)
		}
	}
	kept := map[string]int{}
	for _, h := range n.histories() {
		if kept[h.product] < keepReleases && n.db.complete(h.manifest) {
			kept[h.product]++
			add(h.manifest)
		}
	}
	var gone []string
	n.db.all("complete", func(text string, _ []byte) {
		if c, err := cid.Decode(text); err != nil || !slices.Contains(keep, c) {
			gone = append(gone, text)
		}
	})
	for _, m := range gone {
		if err := n.db.delete("complete", m); err != nil {
			return nil, err
		}
	}
	return keep, nil
}

// releases is what a deployment consists of.
func (n *Node) releases(d image.Deployment) []ReleaseStatus {
	out := []ReleaseStatus{}
	for _, r := range d.Releases {
		out = append(out, ReleaseStatus{Product: r.Product, Version: r.Version, Epoch: r.Epoch, Seq: r.Seq, Manifest: r.Manifest.String(), Deployment: d.ID})
	}
	return out
}

// release1 is one product's share of a deployment; nil when it has none.
func (n *Node) release1(d image.Deployment, product string) *ReleaseStatus {
	for _, r := range n.releases(d) {
		if r.Product == product {
			return &r
		}
	}
	return nil
}

// Status is a picture of the node.
func (n *Node) Status() (s Status) {
	s.Home, s.Time = n.cfg.Home, time.Now()
	n.firstCount.Do(func() { // the first picture is a true one
		u := n.countStore(n.ctx)
		n.do(func() { n.usage, n.usageAt = StoreStatus{Blobs: u.Blobs, Bytes: u.Bytes}, time.Now() })
	})
	n.do(func() {
		s.Node = NodeStatus{ID: n.ID(), PID: os.Getpid(), Version: n.cfg.Version, UptimeSeconds: int64(time.Since(n.began).Seconds()),
			Catalog: fmt.Sprintf("%x", n.catalog.Digest()), Discovery: !n.cfg.NoDiscovery, Addrs: []string{}}
		if root := n.catalog.Root(); root != nil {
			_, rival := n.catalog.Rival()
			s.Root = RootStatus{Version: root.Version, Keys: len(root.Keys), RenewBy: root.RenewBy, Rival: rival}
			for _, p := range root.Products {
				s.Root.Products = append(s.Root.Products, p.Pattern)
			}
		}
		s.Neighbours = []Neighbour{}
		if r := n.net; r != nil {
			s.Running = true
			s.Node.Addrs = addresses(r.host)
			s.Node.BytesReceived, s.Node.BytesSent = r.totals()
			s.Neighbours = n.neighbours()
		}
		s.Products = n.products()
		s.Store = n.storeStatus()
		s.Clock = n.clockStatus()
		if h, on := n.held(); on {
			s.Hold = &HoldStatus{Until: h.Wall, Left: h.Until - n.count.now().Up, Reason: h.Why}
		}
		s.Node.Timestamps = len(n.cfg.TimestampKeys) > 0
		if n.stampErr != nil {
			s.Node.TimestampErr = n.stampErr.Error()
		}
	})
	return s
}

// storeStatus is the store as it was counted last: counting reads directories, so it is done beside, at most
// every ten seconds, and only while somebody asks.
func (n *Node) storeStatus() StoreStatus {
	if !n.counting && time.Since(n.usageAt) > 10*time.Second {
		n.counting = true
		n.spawn(func(ctx context.Context) {
			u := n.countStore(ctx)
			n.post(func() {
				n.counting, n.usageAt = false, time.Now()
				n.usage = StoreStatus{Blobs: u.Blobs, Bytes: u.Bytes}
				n.touch()
			})
		})
	}
	now := n.usage
	now.FreeBytes, _ = n.store.FreeSpace()
	return now
}

func (n *Node) countStore(ctx context.Context) store.Usage {
	u, err := n.store.Usage(ctx)
	if err != nil {
		n.log.Debug("counting the store", slog.Any("err", err))
	}
	return u
}

func (n *Node) neighbours() []Neighbour {
	r := n.net
	out := []Neighbour{}
	mine := n.catalog.Digest()
	for p, k := range r.table.known {
		if !k.connected {
			continue
		}
		nb := Neighbour{ID: p.String(), Source: k.Source, Catalog: "unknown"}
		if cs := r.host.Network().ConnsToPeer(p); len(cs) > 0 {
			nb.Addr = readable(cs[0].RemoteMultiaddr()).String()
		}
		if t, ok := r.began[p]; ok {
			nb.ConnectedSeconds = int64(time.Since(t).Seconds())
		}
		if d, ok := r.digests[p]; ok {
			nb.Catalog = "differs"
			switch {
			case d == mine:
				nb.Catalog = "same"
			case n.ex.foreign[p]:
				nb.Catalog = "other root"
			}
		}
		nb.BytesFrom, nb.BytesTo = r.counters(p)
		out = append(out, nb)
	}
	slices.SortFunc(out, func(a, b Neighbour) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (n *Node) products() []ProductStatus {
	names := map[string]bool{}
	for _, h := range n.catalog.Heads() {
		names[h.Product] = true
	}
	for p, l := range n.lines {
		if l.place != nil || names[p] {
			names[p] = true
		}
	}
	out := []ProductStatus{}
	for p := range names {
		out = append(out, n.product(p))
	}
	slices.SortFunc(out, func(a, b ProductStatus) int { return cmp.Compare(a.Product, b.Product) })
	return out
}

func (n *Node) productStatus(product string) (ps ProductStatus) {
	ps = ProductStatus{Product: product, State: StateNone}
	n.do(func() { ps = n.product(product) })
	return ps
}

// product derives everything from what is true now; no state is kept for showing.
func (n *Node) product(name string) ProductStatus {
	ps := ProductStatus{Product: name, State: StateNone, Carried: n.carried(name), Published: n.published(name)}
	target, _, known := n.catalog.Latest(name)
	if known {
		ps.State = StateKnown
		ps.Newest = releaseStatus(&target)
		ps.Newest.Urgent = n.catalog.Urgent(n.count.now(), name)
		if n.db.complete(target.Manifest) && (ps.Carried || ps.Published) {
			ps.State = StateHeld
		}
	} else if n.refused(name) {
		ps.State, ps.Claims = StateRefused, n.claims(name)
		ps.Hint = "the publisher heals it by publishing again with a higher seq"
	}
	if n.catalog.Root() != nil {
		ps.Freshness = n.freshness(name)
	}
	l := n.lines[name]
	if l == nil {
		return ps
	}
	if known && l.lastOf == target.Manifest {
		ps.Fetch = l.last
	}
	switch {
	case l.job != nil:
		ps.State, ps.Fetch = l.job.state, fetchStatus(l.job.session.Progress())
	case l.err != nil:
		ps.State = StateFailed
	}
	if p := l.place; p != nil {
		n.inImage(&ps, p, target, known)
	}
	if err := l.failure(); err != nil {
		ps.Error, ps.Hint = err.Error(), HintOf(err)
	}
	return ps
}

var noTrouble trouble

// placeTrouble is why the image that the product is followed into does not get on.
func (l *line) placeTrouble() *trouble {
	if l.place == nil {
		return &noTrouble
	}
	return &l.place.trouble
}

// failure is why the product does not get on, or nil.
func (l *line) failure() error {
	if l.err != nil {
		return l.err
	}
	return l.placeTrouble().err
}

// inImage says how far a product is in the image that it is followed into.
func (n *Node) inImage(ps *ProductStatus, p *place, target announce.Announcement, known bool) {
	ps.Followed, ps.Image, ps.Policy = true, p.dir, n.policyFor(p.dir)
	if p.img == nil {
		if p.err != nil {
			ps.State = StateFailed
		}
		return
	}
	live, isLive := p.img.Live()
	ps.Live = n.release1(live, ps.Product)
	if prev, ok := p.img.Previous(); ok {
		ps.Previous = n.release1(prev, ps.Product)
	}
	trial, armed := p.img.Trial()
	if armed {
		ps.Trial = n.release1(trial, ps.Product)
	}
	if !known {
		return
	}
	r, has := live.Release(ps.Product)
	switch {
	case isLive && has && isRelease(r, &target) || n.behindLive(p, &target):
		ps.State = StateActive
		return
	case ps.Trial != nil && ps.Trial.Epoch == target.Epoch && ps.Trial.Seq == target.Seq:
		ps.State = StateArmed
		if booted, ok := p.img.Booted(); ok && booted.ID == trial.ID {
			ps.State = StateTrying
		}
		return
	}
	if d, ok := n.staged1(p, &target); ok {
		ps.Ready = n.release1(d, ps.Product)
		ps.State = StateReady
		if n.tried(p, d) {
			ps.State, ps.Error = StateRejected, p.img.WhyFailed(d.ID)
		}
		return
	}
	if p.job != nil && p.job.has(&target) {
		ps.State = StateStaging
	} else if p.err != nil {
		ps.State = StateFailed
	}
}

// staged1 finds the youngest deployment that has what a announces.
func (n *Node) staged1(p *place, a *announce.Announcement) (found image.Deployment, ok bool) {
	all, err := p.img.List()
	if err != nil {
		return found, false
	}
	for _, d := range all {
		if r, has := d.Release(a.Product); has && isRelease(r, a) {
			found, ok = d, true
		}
	}
	return found, ok
}

// tried reports whether a deployment failed its trial on this machine.
func (n *Node) tried(p *place, d image.Deployment) bool {
	failed := p.img.Failed()
	if len(failed) == 0 || slices.Contains(failed, d.ID) {
		return len(failed) > 0
	}
	all, _ := p.img.List()
	return slices.ContainsFunc(all, func(o image.Deployment) bool { // a copy is no other release
		return slices.Contains(failed, o.ID) && keyOf(o.Releases) == keyOf(d.Releases)
	})
}

// failedReleases are those that came with a deployment that failed, and are not live.
func (n *Node) failedReleases(p *place) (out []image.Release) {
	failed := p.img.Failed()
	if len(failed) == 0 {
		return nil
	}
	live, _ := p.img.Live()
	all, _ := p.img.List()
	for _, d := range all {
		for _, r := range d.Releases {
			if slices.Contains(failed, d.ID) && !slices.Contains(live.Releases, r) {
				out = append(out, r)
			}
		}
	}
	return out
}

// published reports whether product was announced from this home.
func (n *Node) published(product string) bool {
	_, ok := n.db.get("published", product)
	return ok
}

func (n *Node) refused(name string) bool {
	return len(n.catalog.Claims(name)) > 0
}

func fetchStatus(p fetch.Progress) *FetchStatus {
	f := &FetchStatus{Phase: p.Phase.String(), BytesTotal: p.BytesTotal, BytesHad: p.BytesHere, BytesLocal: p.BytesLocal,
		BytesNeeded: p.BytesNeeded, BytesDuplicate: p.BytesDuplicate, BytesCorrupt: p.BytesCorrupt,
		BytesBySource: p.BytesFetched, RateBytes: p.Rate}
	for _, b := range p.BytesFetched {
		f.BytesFetched += b
	}
	content := p.BytesTotal - p.BytesHere - p.BytesLocal - p.BytesNeeded
	if f.BytesFetched > content {
		f.BytesDocuments = f.BytesFetched - content
	}
	if p.Rate > 0 && p.BytesNeeded > 0 {
		f.EndsInSeconds = float64(p.BytesNeeded) / p.Rate
	}
	return f
}
