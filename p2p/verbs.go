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
			if force && l.dir != "" { // it is a person who starts anew
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

// Follow keeps the image directory dir on the newest release of product. An image has one product.
func (n *Node) Follow(product, dir string) error {
	if err := announce.ValidProduct(product); err != nil {
		return fail(CodeBadInput, "a product is named like xo-os or lessons.maths", err)
	}
	dir, err := cleanDir(dir)
	if err != nil {
		return err
	}
	for {
		var wait chan struct{}
		err := n.call(func() error {
			if c := n.closing[dir]; c != nil { // it was given up a moment ago, and somebody still works on it
				wait = c.done
				return nil
			}
			return n.follow(product, dir)
		})
		if wait == nil {
			return err
		}
		<-wait
	}
}

func (n *Node) follow(product, dir string) error {
	hint := "give each product an image directory of its own, outside the store and outside other images' trees"
	if dir == resolve(n.cfg.Home) || within(dir, filepath.Join(n.cfg.Home, "store")) || within(n.cfg.Home, filepath.Join(dir, "deploy")) {
		return fail(CodeConflict, hint, fmt.Errorf("image %q and the store of %q are in each other's way", dir, n.cfg.Home))
	}
	for _, l := range n.lines {
		switch {
		case l.dir == "" || l.product == product && l.dir == dir:
		case l.dir == dir:
			return fail(CodeConflict, hint, fmt.Errorf("image %q already follows %s", dir, l.product))
		case within(dir, filepath.Join(l.dir, "deploy")) || within(l.dir, filepath.Join(dir, "deploy")):
			return fail(CodeConflict, hint, fmt.Errorf("image %q and the image %q of %s lie in one another's trees", dir, l.dir, l.product))
		}
	}
	l := n.line(product)
	if l.dir == dir && l.img != nil {
		return nil
	}
	img, err := image.Open(dir)
	if err != nil {
		return imageError(dir, err)
	}
	n.dropImage(l)
	l.dir, l.img = dir, img
	l.calm()
	if err := n.db.put("follows", product, []byte(dir)); err != nil {
		return err
	}
	n.advance(l)
	n.touch()
	return nil
}

func (n *Node) dropImage(l *line) {
	l.cancelJob()
	n.giveUp(l)
	l.dir = ""
}

// Unfollow leaves the image as it is and follows no longer.
func (n *Node) Unfollow(product string) error {
	return n.call(func() error {
		l := n.lines[product]
		if l == nil || l.dir == "" {
			return fail(CodeNotFound, `"satchel status" lists what is followed`, fmt.Errorf("%s is not followed", product))
		}
		n.dropImage(l)
		l.calm()
		if err := n.db.delete("follows", product); err != nil {
			return err
		}
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

// Apply makes the staged newest release live. It needs no network.
func (n *Node) Apply(ctx context.Context, product string) (ReleaseStatus, error) {
	if err := n.stageNow(ctx, product); err != nil {
		return ReleaseStatus{}, err
	}
	var out ReleaseStatus
	err := n.call(func() error {
		l, img, err := n.followed(product)
		if err != nil {
			return err
		}
		target, _, _ := n.catalog.Latest(product)
		d, ok := deployed(img, &target)
		if !ok {
			return n.notReady(l, "nothing newer is staged for "+product)
		}
		if n.behindLive(l, &target) {
			return fail(CodeOlder, "if the trust root was replaced on purpose, trust it again with --force",
				fmt.Errorf("%s seq %d is older than what is live", product, target.Seq))
		}
		if live, ok := img.Live(); !ok || live.ID != d.ID {
			if err := img.Activate(d.ID); err != nil {
				return fmt.Errorf("activating %s: %w", d.ID, imageError(l.dir, err))
			}
			n.log.Info("release live", slog.String("product", product), slog.String("version", d.Release.Version))
			if err := n.db.delete("anew", product); err != nil {
				return err
			}
		}
		out = *n.release1(d)
		n.touch()
		return nil
	})
	return out, err
}

// stageNow lays down a release whose content is whole but which no running job has staged yet, as when no
// node runs.
func (n *Node) stageNow(ctx context.Context, product string) error {
	for {
		var j *job
		n.do(func() {
			if l := n.lines[product]; l != nil {
				l.retryAt = time.Time{}
				n.advance(l)
				j = l.job
			}
		})
		if j == nil || j.state != StateStaging {
			return nil
		}
		select {
		case <-j.done:
		case <-ctx.Done():
			return fail(CodeTimeout, "try again", fmt.Errorf("staging %s: %w", product, ctx.Err()))
		}
		var err error
		n.do(func() { err = n.lines[product].err })
		if err != nil {
			return err
		}
	}
}

func (n *Node) followed(product string) (*line, *image.Image, error) {
	l := n.lines[product]
	if l == nil || l.dir == "" {
		return nil, nil, fail(CodeNotFound, "follow it first: satchel follow "+product+" --image DIR", fmt.Errorf("%s is not followed", product))
	}
	if l.img == nil {
		if n.openImage(l); l.img == nil {
			return nil, nil, l.err
		}
	}
	return l, l.img, nil
}

func (n *Node) notReady(l *line, text string) error {
	hint := `"satchel explain ` + l.product + `" says what it waits for`
	if l.err != nil {
		return fail(CodeNotReady, hint, fmt.Errorf("%s: %w", text, l.err))
	}
	return fail(CodeNotReady, hint, errors.New(text))
}

// Rollback makes the previous deployment live again. It needs no network.
func (n *Node) Rollback(_ context.Context, product string) (out ReleaseStatus, err error) {
	err = n.call(func() error {
		l, img, err := n.followed(product)
		if err != nil {
			return err
		}
		if prev, ok := img.Previous(); ok {
			if err := n.belowFloor(prev.Release); err != nil {
				return err
			}
		}
		d, err := img.Rollback()
		if errors.Is(err, image.ErrNoPrevious) {
			return fail(CodeNotReady, "a deployment is kept from the second apply on", fmt.Errorf("%s has no previous deployment", product))
		}
		if err != nil {
			return fmt.Errorf("rolling back %s: %w", product, imageError(l.dir, err))
		}
		n.log.Info("rolled back", slog.String("product", product), slog.String("version", d.Release.Version))
		out = *n.release1(d)
		n.touch()
		return nil
	})
	return out, err
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
		if l := n.lines[product]; l != nil && l.img != nil {
			all, _ := l.img.List()
			for _, d := range all {
				if d.Release.Seq == seq {
					m = d.Release.Manifest
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

// keepDeployments is how many deployments an image keeps besides the live, previous and newest ones.
const keepDeployments = 2

// keepReleases is how many releases of a product that was announced from this home are kept, for a recall.
const keepReleases = 3

// Prune removes deployments and blobs that nothing here needs: kept are the newest release of every product
// that is known and whole here, the last three of what was announced here, what is live, previous or staged, and what is being fetched. Fetches pause
// meanwhile; a tree that is being laid down is waited for.
func (n *Node) Prune(ctx context.Context) (out PruneResult, err error) {
	out.Deployments = []string{}
	err = n.call(func() error {
		if n.pruning {
			return fail(CodeConflict, "wait for it", errors.New("the store is being pruned already"))
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
		keep, err = n.needed(&out)
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
					if j.session != nil {
						j.cancel()
					}
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
func (n *Node) needed(out *PruneResult) (keep []cid.Cid, err error) {
	add := func(m cid.Cid) {
		if m.Defined() && n.store.Has(m) && !slices.Contains(keep, m) {
			keep = append(keep, m)
		}
	}
	for _, l := range n.lines {
		if l.img == nil {
			continue
		}
		ids, err := l.img.Prune(keepDeployments)
		out.Deployments = append(out.Deployments, ids...)
		if err != nil {
			return nil, fmt.Errorf("pruning %s: %w", l.dir, err)
		}
		all, err := l.img.List()
		if err != nil {
			return nil, err
		}
		for _, d := range all {
			add(d.Release.Manifest)
		}
	}
	for _, h := range n.catalog.Heads() {
		a, _, ok := n.catalog.Latest(h.Product)
		l := n.lines[h.Product]
		if ok && (n.published(h.Product) || l != nil && l.dir != "" || n.carried(h.Product)) {
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

func (n *Node) release1(d image.Deployment) *ReleaseStatus {
	r := d.Release
	return &ReleaseStatus{Version: r.Version, Epoch: r.Epoch, Seq: r.Seq, Manifest: r.Manifest.String(), Deployment: d.ID}
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
		if l.dir != "" || names[p] {
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
	ps.Followed, ps.Image = l.dir != "", l.dir
	if l.img != nil {
		n.deployments(&ps, l.img, target, known)
	}
	if known && l.lastOf == target.Manifest {
		ps.Fetch = l.last
	}
	switch {
	case l.job != nil:
		if ps.Ready == nil && ps.State != StateActive { // a tree that is there is ready, even if its job still tidies up
			ps.State = l.job.state
		}
		if l.job.session != nil {
			ps.Fetch = fetchStatus(l.job.session.Progress())
		}
	case l.err != nil:
		ps.State = StateFailed
	}
	if l.err != nil {
		ps.Error, ps.Hint = l.err.Error(), HintOf(l.err)
	}
	return ps
}

// published reports whether product was announced from this home.
func (n *Node) published(product string) bool {
	_, ok := n.db.get("published", product)
	return ok
}

func (n *Node) refused(name string) bool {
	return len(n.catalog.Claims(name)) > 0
}

func (n *Node) deployments(ps *ProductStatus, img *image.Image, target announce.Announcement, known bool) {
	live, isLive := img.Live()
	if isLive {
		ps.Live = n.release1(live)
	}
	if prev, ok := img.Previous(); ok {
		ps.Previous = n.release1(prev)
	}
	if !known {
		return
	}
	if isLive && isRelease(live, &target) || n.behindLive(n.lines[ps.Product], &target) {
		ps.State = StateActive
	} else if d, ok := deployed(img, &target); ok {
		ps.State = StateReady
		ps.Ready = n.release1(d)
	}
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
