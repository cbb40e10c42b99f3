package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"satchel/store/image"
)

// ChangeRequest says what a person wants of an image.
type ChangeRequest struct {
	Image    string   `json:"image"`              // its directory; empty: the one that Products are followed into, or the only one
	Products []string `json:"products,omitempty"` // bring these to their newest release; none: all that are in it or followed into it
	Install  []string `json:"install,omitempty"`  // add these, and follow them from now on
	Remove   []string `json:"remove,omitempty"`   // take these out, and follow them no longer
	Wait     bool     `json:"wait,omitempty"`     // fetch what is not here yet; otherwise what is whole here is taken
	Converge bool     `json:"converge,omitempty"` // exactly what a fresh machine would have: no local changes
	Attach   bool     `json:"attach,omitempty"`   // the image comes from elsewhere: refuse it when anything would go down, and follow what is in it
	Other    bool     `json:"other,omitempty"`    // it is another disk's: nothing in it is followed because of this
	Again    bool     `json:"again,omitempty"`    // also when it failed its trial before
}

// The moments at which a change counts.
const (
	WhenNow      = "now"       // whoever opens IMAGE/current gets it
	WhenBoot     = "next boot" // armed: the next boot tries it
	WhenNothing  = "nothing"   // it was so already
	WhenAttached = "attached"  // followed from now on
)

// ChangeResult is what has become of an image.
type ChangeResult struct {
	Image      string          `json:"image"`
	When       string          `json:"when"`
	Deployment string          `json:"deployment,omitempty"`
	Before     string          `json:"before,omitempty"` // the deployment that was live
	Releases   []ReleaseStatus `json:"releases"`
	Was        []ReleaseStatus `json:"was"`
	Local      []LocalChange   `json:"local"`            // what of the person's changes was taken over
	Proof      []string        `json:"proof,omitempty"`  // with Converge: the manifests' CIDs that the tree was compared with, from the medium
	Checks     []HealthCheck   `json:"checks,omitempty"` // that were run
}

// LocalChange is a file that a person changed, and what became of it in a new deployment.
type LocalChange struct {
	Path string `json:"path"`
	What string `json:"what"` // kept, conflict, added or removed
}

// ChangeProgress is how far a change is: What is fetching, in bytes, laying down, or switching.
type ChangeProgress = StickProgress

// Change updates an image, or changes of which products it consists: fetch, stage, prove from the medium, switch. Until the
// switch an error leaves everything as it was; the clone is gone. After it, what fails its health checks is left again by
// itself. The end of ctx ends it before the switch, and not after.
func (n *Node) Change(ctx context.Context, req ChangeRequest, progress func(ChangeProgress)) (res ChangeResult, err error) {
	if progress == nil {
		progress = func(ChangeProgress) {}
	}
	c := &change{n: n, req: req, progress: progress}
	if err := n.call(c.begin); err != nil {
		return res, err
	}
	defer n.wg.Done()
	defer n.do(c.end)
	err = c.run(ctx)
	return c.res, err
}

// change is one Change. Between begin and end its place is busy: nothing else is staged into it.
type change struct {
	n        *Node
	req      ChangeRequest
	progress func(ChangeProgress)
	p        *place
	products []string // that are to be at their newest
	began    time.Time
	want     []image.Release
	res      ChangeResult
}

// begin finds the image and what is asked of it.
func (c *change) begin() error {
	n := c.n
	if n.catalog.Root() == nil {
		return errNoRoot()
	}
	if err := c.occupy(); err != nil {
		return err
	}
	live, _ := c.p.img.Live()
	c.res = ChangeResult{Image: c.p.dir, When: WhenNothing, Before: live.ID, Was: n.releases(live), Local: []LocalChange{}}
	if err := c.choose(live); err != nil {
		c.leave()
		n.wg.Done()
		return err
	}
	for _, product := range c.products {
		n.line(product).wanted++
	}
	n.advanceAll()
	return nil
}

// occupy opens the image and keeps others from changing it.
func (c *change) occupy() error {
	n := c.n
	if n.pruning {
		return fail(CodeConflict, "try again when it is done", errors.New("the store is being pruned"))
	}
	p, err := n.takeImage(c.req.Image, c.req.Products, len(c.req.Install) > 0)
	if err != nil {
		return err
	}
	if p.busy {
		n.unuse(p)
		return errBusy(p.dir)
	}
	p.busy, c.p = true, p
	n.wg.Add(1) // a node that is closed waits for the end
	return nil
}

// takeImage opens the image that is meant, for use until unuse. It need not be one that products are followed into; begin says that it
// need not be there yet.
func (n *Node) takeImage(dir string, products []string, begin bool) (*place, error) {
	dir, err := n.imageDir(dir, products)
	if err != nil {
		return nil, err
	}
	if err := n.mayHoldImage(dir); err != nil {
		return nil, err
	}
	if !begin {
		if err := n.isImage(dir); err != nil {
			return nil, err
		}
	}
	p := n.placeAt(dir)
	n.use(p)
	if err := n.openPlace(p); err != nil {
		n.unuse(p)
		return nil, err
	}
	return p, nil
}

func errBusy(dir string) error {
	return fail(CodeConflict, "wait for it", fmt.Errorf("image %q is being changed already", dir))
}

// isImage refuses a directory that is none: to open it would make one.
func (n *Node) isImage(dir string) error {
	if n.places[dir] != nil {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, "deploy")); err != nil {
		return fail(CodeNotFound, `an image is a directory with "deploy" in it; "satchel status" lists those of this machine`, fmt.Errorf("no image in %q", dir))
	}
	return nil
}

// imageDir is the directory of the image that is meant: dir, else the one that products are followed into, else the only one.
func (n *Node) imageDir(dir string, products []string) (string, error) {
	if dir != "" {
		return cleanDir(dir)
	}
	found := map[string]bool{}
	for _, l := range n.lines {
		if l.place != nil && (len(products) == 0 || slices.Contains(products, l.product)) {
			found[l.place.dir] = true
		}
	}
	if len(found) == 1 {
		for dir := range found {
			return dir, nil
		}
	}
	if len(products) > 0 && len(found) == 0 {
		product := products[0]
		return "", fail(CodeNotFound, "follow it first: satchel follow "+product+" --image DIR", fmt.Errorf("%s is not followed", product))
	}
	return "", fail(CodeBadInput, `name it: --image DIR, or -R DIR for another disk; "satchel status" lists the images`,
		fmt.Errorf("which image is meant: this machine has %d", len(found)))
}

// choose finds the products that are to be at their newest release.
func (c *change) choose(live image.Deployment) error {
	c.began = time.Now()
	for _, list := range []*[]string{&c.req.Products, &c.req.Install, &c.req.Remove} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	if live.ID != "" && (len(live.Releases) == 0 || c.req.Attach && slices.ContainsFunc(live.Releases, func(r image.Release) bool { return !r.Manifest.Defined() })) {
		return fail(CodeCorrupt, `activate another deployment, or begin a new image: "satchel image list"`, fmt.Errorf("it is not known what %s in %q consists of: its description is lost", live.ID, c.p.dir))
	}
	all := c.n.followedInto(c.p)
	for _, r := range live.Releases {
		if !slices.Contains(all, r.Product) {
			all = append(all, r.Product)
		}
	}
	for _, product := range c.req.Remove {
		if !slices.Contains(all, product) {
			return fail(CodeNotFound, "\"satchel image show\" lists what is in it", fmt.Errorf("%s is not in the image %q", product, c.p.dir))
		}
	}
	for _, product := range c.req.Products {
		if !slices.Contains(all, product) {
			return fail(CodeNotFound, `add it: "satchel install `+product+`"`, fmt.Errorf("%s is not in the image %q", product, c.p.dir))
		}
	}
	for _, product := range c.req.Install {
		if !slices.Contains(all, product) {
			all = append(all, product)
		}
	}
	for _, product := range all {
		named := slices.Contains(c.req.Products, product) || slices.Contains(c.req.Install, product)
		if !slices.Contains(c.req.Remove, product) && (named || len(c.req.Products)+len(c.req.Remove) == 0) {
			c.products = append(c.products, product)
		}
	}
	if len(all) == 0 {
		return fail(CodeNotFound, `put something into it: "satchel install PRODUCT --image DIR"`, fmt.Errorf("the image %q is empty", c.p.dir))
	}
	if len(all) == len(c.req.Remove) {
		return fail(CodeConflict, `"satchel unfollow" leaves the tree as it is and stops updates`, fmt.Errorf("%s is all that is in the image %q", strings.Join(all, ", "), c.p.dir))
	}
	return nil
}

func (c *change) leave() {
	c.p.busy = false
	c.n.unuse(c.p)
}

func (c *change) end() {
	for _, product := range c.products {
		c.n.line(product).wanted--
	}
	c.leave()
	c.n.advanceAll()
	c.n.touch()
}

func (c *change) run(ctx context.Context) error {
	if err := c.fetch(ctx); err != nil {
		return err
	}
	if err := c.n.call(c.decide); err != nil {
		return err
	}
	if c.req.Attach {
		if err := c.compare(); err != nil {
			return err
		}
	}
	d, err := c.stage(ctx)
	if err != nil {
		return err
	}
	if err := c.activate(ctx, d); err != nil {
		return err
	}
	if c.req.Converge {
		if err := c.prove(ctx, d); err != nil {
			return err
		}
	}
	return c.n.call(c.keep)
}

// prove compares the tree with the manifests, from the medium, and names them.
func (c *change) prove(ctx context.Context, d image.Deployment) error {
	problems, err := c.p.img.Prove(ctx, d.ID, c.n.store)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return fail(CodeCorrupt, `"satchel verify" repairs what is damaged`, fmt.Errorf("%s differs from its releases in %d places, the first is %s: %s",
			d.ID, len(problems), problems[0].Path, problems[0].What))
	}
	for _, r := range d.Releases {
		c.res.Proof = append(c.res.Proof, r.Manifest.String())
	}
	return nil
}

// fetch waits until the newest release of every product is whole here.
func (c *change) fetch(ctx context.Context) error {
	running := false
	c.n.do(func() {
		if running = c.n.net != nil; running && c.req.Wait {
			c.n.askAll()
		}
	})
	for c.req.Wait && running {
		var changed <-chan struct{}
		var err error
		done := true
		at := ChangeProgress{What: "fetching"}
		c.n.do(func() {
			changed = c.n.changed
			if time.Since(c.began) < firstNews && !c.n.heardAll() {
				done, at.What = false, "asking the neighbours"
			}
			for _, product := range c.products {
				whole, stuck := c.whole(product, &at)
				done = done && whole
				err = errors.Join(err, stuck)
			}
		})
		if done || err != nil {
			return err
		}
		c.progress(at)
		select {
		case <-changed:
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fail(CodeTimeout, "what has come is kept; the node goes on fetching what is followed", fmt.Errorf("fetching for the image %q: %w", c.p.dir, context.Cause(ctx)))
		case <-c.n.ended:
			return fail(CodeOffline, `start the node again with "satchel up"`, errors.New("the node has stopped"))
		}
	}
	return nil
}

// firstNews is how long an update waits for a neighbour to be connected, and for their news.
const firstNews = 3 * time.Second

// heardAll reports whether there is a neighbour, and every one has told what it knows.
func (n *Node) heardAll() bool {
	some := false
	for p, k := range n.net.table.known {
		if !k.connected {
			continue
		}
		some = true
		if _, known := n.net.digests[p]; !known || n.ex.running[p] {
			return false
		}
	}
	return some
}

// whole says whether the newest release of a product is here, how far it is, and why it will not come.
func (c *change) whole(product string, at *ChangeProgress) (bool, error) {
	n := c.n
	a, _, ok := n.catalog.Latest(product)
	l := n.line(product)
	live, _ := c.p.img.Live()
	_, has := live.Release(product)
	switch {
	case !ok && has, ok && n.db.complete(a.Manifest), ok && n.behindLive(c.p, &a):
		return true, nil
	case n.refused(product):
		return false, fail(CodeEquivocal, "the publisher heals it by publishing again with a higher seq", fmt.Errorf("two releases of %s claim one number", product))
	case !ok && time.Since(c.began) > lonely:
		return false, fail(CodeNotFound, "check its name; connect a neighbour or a stick that has it", fmt.Errorf("no release of %s is known here, nor to a neighbour", product))
	case !ok:
		return false, nil
	case l.err != nil && l.about == a.Manifest.String() && final(l.err):
		return false, l.err
	}
	if l.job != nil && l.job.session != nil {
		p := l.job.session.Progress()
		at.Total += p.BytesTotal
		at.Done += p.BytesTotal - p.BytesNeeded
	}
	return false, nil
}

// final reports whether an error does not go away by waiting.
func final(err error) bool {
	return slices.Contains([]string{CodeRefused, CodeNoSpace, CodeReadOnly, CodeTooNew}, CodeOf(err))
}

// decide fixes what the image is to consist of.
func (c *change) decide() error {
	var left []image.Release
	c.want, left = c.n.composition(c.p, c.products, c.req.Again)
	c.want = slices.DeleteFunc(c.want, func(r image.Release) bool { return slices.Contains(c.req.Remove, r.Product) })
	for _, product := range c.req.Install {
		if !slices.ContainsFunc(c.want, func(r image.Release) bool { return r.Product == product }) {
			return c.n.notReady(c.n.line(product), product+" is not here yet")
		}
	}
	if len(c.want) == 0 {
		return fail(CodeNotReady, `"satchel explain" says what it waits for`, errors.New("nothing is here yet for the image "+c.p.dir))
	}
	live, _ := c.p.img.Live()
	if keyOf(c.want) != keyOf(live.Releases) {
		return nil
	}
	if len(left) > 0 {
		return errTried(words(image.Deployment{Releases: left}))
	}
	if !c.req.Wait {
		return nil
	}
	for _, product := range c.products { // nothing changes: is that because something is missing?
		if a, _, ok := c.n.catalog.Latest(product); ok && !c.n.db.complete(a.Manifest) && !c.n.behindLive(c.p, &a) {
			return fail(CodeNotReady, `start a node, and try again: "satchel up"`, fmt.Errorf("the content of %s %s is not here", product, a.Version))
		}
	}
	return nil
}

// stage gives the deployment of what is wanted, staging it when there is none.
func (c *change) stage(ctx context.Context) (d image.Deployment, err error) {
	n := c.n
	for {
		var running *job
		var ok bool
		err := n.call(func() error {
			if !c.req.Converge {
				if d, _ = c.p.img.Live(); keyOf(d.Releases) == keyOf(c.want) {
					ok = true
				} else {
					d, ok = deployed(c.p.img, c.want)
				}
			}
			if ok {
				return nil
			}
			if running = c.p.job; running == nil {
				running = n.startStage(c.p, c.want, c.req.Converge)
				running.mine = true
			}
			return nil
		})
		if err != nil || ok {
			return d, err
		}
		c.progress(ChangeProgress{What: "laying down"})
		select {
		case <-running.done:
		case <-ctx.Done():
			running.cancel()
			<-running.done
			return d, fail(CodeTimeout, "nothing was changed; try again", fmt.Errorf("laying down into %q: %w", c.p.dir, context.Cause(ctx)))
		}
		if !running.mine {
			continue
		}
		if running.err != nil {
			return d, fmt.Errorf("the live tree is as it was: %w", running.err)
		}
		return running.made, nil
	}
}

// activate switches to a deployment, unless it is live already.
func (c *change) activate(ctx context.Context, d image.Deployment) error {
	n := c.n
	live, _ := c.p.img.Live()
	c.res.Deployment = d.ID
	n.do(func() { c.res.Releases = n.releases(d) })
	c.res.Local = localChanges(d)
	if live.ID == d.ID {
		return nil
	}
	err := n.call(func() error {
		if err := n.mayApply(); err != nil {
			return err
		}
		if !c.req.Again && n.tried(c.p, d) {
			return errTried(words(d))
		}
		return n.db.delete("left", c.p.dir)
	})
	if err != nil {
		return err
	}
	c.progress(ChangeProgress{What: "switching"})
	out, err := n.switchTo(context.WithoutCancel(ctx), c.p, d, c.req.Again)
	c.res.When, c.res.Checks = out.when, out.checks
	return err
}

func errTried(what string) error {
	return fail(CodeRefused, "wait for a newer release, or try it once more with --again", fmt.Errorf("%s failed its trial on this machine", what))
}

// keep makes what was asked for last: follows, and that a newer root's lower numbers were meant.
func (c *change) keep() error {
	n := c.n
	for _, r := range c.want {
		if l := n.lines[r.Product]; l == nil || l.place != c.p || c.res.When != WhenNow {
			continue
		}
		if err := n.db.delete("anew", r.Product); err != nil {
			return err
		}
	}
	follow := c.req.Install
	if c.req.Other {
		follow = nil
	}
	if c.req.Attach {
		follow = slices.DeleteFunc(slices.Clone(c.products), func(product string) bool { return n.line(product).place != nil })
		if c.res.When == WhenNothing {
			c.res.When = WhenAttached
		}
	}
	for _, product := range follow {
		if err := n.db.put("follows", product, []byte(c.p.dir)); err != nil {
			return err
		}
		n.moveTo(n.line(product), c.p)
	}
	for _, product := range c.req.Remove {
		l := n.lines[product]
		if l == nil || l.place != c.p { // another image follows it
			continue
		}
		if err := n.db.delete("follows", product); err != nil {
			return err
		}
		n.moveTo(l, nil)
	}
	return nil
}

// words names a deployment for people.
func words(d image.Deployment) string {
	var parts []string
	for _, r := range d.Releases {
		parts = append(parts, r.Product+" "+r.Version)
	}
	return strings.Join(parts, " and ")
}

// switched is what came of a switch.
type switched struct {
	when   string
	checks []HealthCheck
}

// switchTo makes a staged deployment live, or arms it for the next boot when a system is in it: unless there is nothing live to go
// back to, or it is on a disk that no machine was started from, such as a chroot. Content that fails its health checks is left
// again, and remembered.
// again forgives that it failed before. When the node ends during the checks, the switch is undone, and nothing is remembered.
func (n *Node) switchTo(ctx context.Context, p *place, d image.Deployment, again bool) (out switched, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	var system, own bool
	if err := n.call(func() error { system, own = n.atBoot(p, d), n.mayRun(d); return nil }); err != nil {
		return out, err
	}
	if d, err = p.img.Refresh(ctx, d.ID, n.store); err != nil { // the person may have changed something since
		return out, imageError(p.dir, err)
	}
	if system {
		if again {
			if err := p.img.Forgive(d.ID); err != nil {
				return out, imageError(p.dir, err)
			}
		}
		if err := p.img.Arm(d.ID, bootTries); err != nil {
			return out, fmt.Errorf("arming %s: %w", d.ID, imageError(p.dir, err))
		}
		n.log.Info("release armed for the next boot", slog.String("deployment", d.ID))
		return switched{when: WhenBoot}, nil
	}
	before, was := p.img.Live()
	older, _ := p.img.Previous()
	if err := p.img.Activate(d.ID); err != nil {
		return out, fmt.Errorf("activating %s: %w", d.ID, imageError(p.dir, err))
	}
	out.when = WhenNow
	n.log.Info("release live", slog.String("deployment", d.ID))
	var bad []string
	if out.checks, bad, err = n.health(ctx, p, d, own); err != nil {
		out.when = WhenNothing
		if was {
			if rerr := p.img.Reject(older.ID, ""); rerr != nil {
				return out, errors.Join(err, imageError(p.dir, rerr))
			}
			if rerr := p.img.Forgive(d.ID); rerr != nil {
				return out, errors.Join(err, imageError(p.dir, rerr))
			}
		}
		return out, fail(CodeNotReady, "try again", fmt.Errorf("the health checks of %s did not come to an end: %w; %s is live again", words(d), err, words(before)))
	}
	if len(bad) == 0 {
		return out, nil
	}
	text := fmt.Errorf("%s failed its health check %s", words(d), strings.Join(bad, ", "))
	if !was {
		return out, fail(CodeUnhealthy, "there is no older deployment to go back to; a newer release heals it", text)
	}
	if err := p.img.Reject(older.ID, "health check "+strings.Join(bad, ", ")); err != nil {
		return out, fail(CodeUnhealthy, `go back with "satchel rollback"`, errors.Join(text, imageError(p.dir, err)))
	}
	out.when = WhenNothing
	return out, fail(CodeUnhealthy, "it is not tried again by itself; see what the check says, and wait for a newer release",
		fmt.Errorf("%w; %s is live again", text, words(before)))
}

// lastWords is what a failed check said last, else why it failed.
func lastWords(why, output string) string {
	lines := strings.FieldsFunc(output, func(r rune) bool { return r == '\n' })
	if len(lines) > 0 {
		why = lines[len(lines)-1]
	}
	if len(why) > maxWhy {
		why = strings.ToValidUTF8(why[:maxWhy], "")
	}
	return " (" + why + ")"
}

// Confirm makes the release that this machine was started with for a trial stay, when its health checks pass.
func (n *Node) Confirm(ctx context.Context, product string) (ReleaseStatus, error) {
	var dir string
	err := n.call(func() error {
		l, err := n.followed(product)
		if err == nil {
			dir = l.place.dir
		}
		return err
	})
	if err != nil {
		return ReleaseStatus{}, err
	}
	res, err := n.ConfirmImage(ctx, dir, false)
	for _, r := range res.Releases {
		if r.Product == product {
			return r, err
		}
	}
	return ReleaseStatus{}, err
}

// ConfirmImage runs the health checks of what is on trial in the image in dir, and makes it stay when all pass; unchecked leaves
// them out. When one fails the trial is over: the next boot starts what was live before. When nothing is on trial, nothing is done.
func (n *Node) ConfirmImage(ctx context.Context, dir string, unchecked bool) (res ChangeResult, err error) {
	err = n.beside(dir, func(p *place) error {
		live, _ := p.img.Live()
		res = ChangeResult{Image: p.dir, When: WhenNothing, Deployment: live.ID, Before: live.ID, Local: []LocalChange{}, Releases: n.releases(live), Was: n.releases(live)}
		d, ok := p.img.Trial()
		if !ok {
			return nil
		}
		res.Deployment, res.Releases = d.ID, n.releases(d)
		if !p.img.InTrial() {
			return fail(CodeNotReady, "start the machine anew: it then tries it", fmt.Errorf("%s is armed, and this machine was not started with it", words(d)))
		}
		if !unchecked {
			own := false
			if err := n.call(func() error { own = n.mayRun(d); return nil }); err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(n.ctx, cancel)()
			var bad []string
			var err error
			if res.Checks, bad, err = n.health(ctx, p, d, own); err != nil {
				return fail(CodeNotReady, "try again", fmt.Errorf("the health checks of %s did not come to an end: %w", words(d), err))
			}
			if len(bad) > 0 {
				text := fmt.Errorf("%s failed its health check %s", words(d), strings.Join(bad, ", "))
				if err := p.img.Fail("health check " + strings.Join(bad, ", ")); err != nil {
					text = errors.Join(text, imageError(p.dir, err))
				}
				return fail(CodeUnhealthy, "start the machine anew: it goes back to "+words(live), text)
			}
		}
		if _, err := p.img.Confirm(); err != nil {
			return fmt.Errorf("confirming %s: %w", d.ID, imageError(p.dir, err))
		}
		res.When = WhenNow
		return nil
	})
	return res, err
}

// health runs the health checks of a deployment: those of the image, and its own when it may. It gives the names of those that
// failed; the error is about what kept them from being run, and says nothing of the deployment.
func (n *Node) health(ctx context.Context, p *place, d image.Deployment, own bool) (checks []HealthCheck, bad []string, err error) {
	results, err := p.img.Health(ctx, d.ID, own, 0)
	for _, r := range results {
		checks = append(checks, HealthCheck{r.Name, r.OK, r.Output, r.Why})
		if !r.OK {
			bad = append(bad, r.Name+lastWords(r.Why, r.Output))
			n.log.Warn("health check failed", slog.String("check", r.Path), slog.String("why", r.Why), slog.String("output", r.Output))
		}
	}
	return checks, bad, err
}

// bootTries is how often a system may fail to confirm before the machine goes back.
const bootTries = 3

// HealthCheck is one check that was run.
type HealthCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Output string `json:"output,omitempty"` // the end of it
	Error  string `json:"error,omitempty"`
}
