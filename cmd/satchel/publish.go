package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"satchel/announce"
	"satchel/p2p"
	"satchel/store"
	"satchel/store/manifest"
)

// publishing is what the command line says.
type publishing struct {
	tree       string
	product    string
	version    string
	keyFiles   []string
	keys       []announce.PrivateKey
	seq        uint64 // 0: the next one
	seqGiven   bool
	notes      string
	expires    string
	lasts      time.Duration // 0: for ever
	urgent     bool
	floor      uint64 // 0: that of the trust root
	recall     bool   // an older release's content
	asJSON     bool
	allowEmpty bool
	minUpdater uint64
	via        uint64
	termFlags
}

// published is "publish --json".
type published struct {
	Product          string   `json:"product"`
	Epoch            uint64   `json:"epoch"`
	Seq              uint64   `json:"seq"`
	Version          string   `json:"version"`
	Urgent           bool     `json:"urgent"`
	Recall           bool     `json:"recall"`
	Floor            uint64   `json:"floor"`
	Issued           int64    `json:"issued"`
	Expires          int64    `json:"expires"`
	Manifest         string   `json:"manifest"`
	ManifestSize     uint64   `json:"manifest_size"`
	TotalSize        uint64   `json:"total_size"`
	Files            int      `json:"files"`
	Dirs             int      `json:"dirs"`
	Links            int      `json:"links"`
	BlobsNew         int      `json:"blobs_new"`
	BlobsHere        int      `json:"blobs_here"`
	BytesNew         uint64   `json:"bytes_new"`
	BytesHere        uint64   `json:"bytes_here"`
	ChunkBytesNew    uint64   `json:"chunk_bytes_new"`
	AnnouncementSize int      `json:"announcement_size"`
	Keys             []string `json:"keys"`
	Running          bool     `json:"running"`
	Seconds          float64  `json:"seconds"`
}

func newPublishCommand(e *env) *cobra.Command {
	var p publishing
	cmd := &cobra.Command{
		Use:   "publish TREE --product PRODUCT --version VERSION --key FILE",
		Short: "publish a directory tree as the next release",
		Long: withExit(`Publish the directory TREE as the next release of a product: store what is new of
it in the home, sign an announcement, and hand it to the node, which passes both
on. The tree is read once. Nothing is announced when any entry of it cannot be
published (a pipe, a device, a name that is not UTF-8, a file that changes while
it is read): the error names them all.

The private key is used by this process alone. Give --key as often as the trust
root wants signatures. VERSION is for people; machines go by the number of the
release (seq), which is the next one unless --seq says more.

Machines keep what people change in the paths given with --config (three-way merge
into the next deployment), and never touch directories given with --state. What is
not given is as in the release before. A patch of the range 8xxxxx is bookkeeping:
only a release without files can name it.

Works with and without a running node; without one, neighbours get the release
when "satchel up" is started.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse, exitNotFound, exitInterrupted),
		Example: `  satchel publish ./lessons --product lessons --version 1 --key school.key
  satchel publish ./os --product xo-os --version 13.2.11 --key os.key --notes "fixes the clock"
  satchel publish ./fix --product xo-os --version 13.2.12 --key os.key --urgent --expires 7d
  satchel publish ./os --product xo-os --version 14 --key os.key --config etc --state var --state home --patch 124393-02`,
		Args: exactly("TREE"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.product, "product", "", "name of the `PRODUCT`")
	f.StringVar(&p.version, "version", "", "`VERSION` to show to people, at most 64 bytes")
	f.StringArrayVar(&p.keyFiles, "key", nil, "private key `FILE` that signs; may be repeated")
	f.Uint64Var(&p.seq, "seq", 0, "number `N` of the release (default the next one)")
	f.StringVar(&p.notes, "notes", "", "`TEXT` that says what is new, at most 4096 bytes")
	f.StringVar(&p.expires, "expires", "", "`TIME` for which the release may be urgent, as 36h or 7d (default for ever)")
	f.Uint64Var(&p.floor, "floor", 0, "machines may never go below the release `SEQ` again, also not by rollback")
	f.BoolVar(&p.allowEmpty, "allow-empty", false, "publish a tree without a file: every follower's tree becomes empty")
	f.Uint64Var(&p.minUpdater, "min-updater", 0, "oldest satchel format `N` that can install it (see \"satchel version\"); older ones say so")
	f.Uint64Var(&p.via, "via", 0, "older release `SEQ` to install first where satchel is older than --min-updater")
	p.termFlags.add(cmd)
	f.BoolVar(&p.urgent, "urgent", false, "may wake sleeping machines, where the trust root allows it")
	asJSON := jsonFlag(cmd)
	for _, name := range []string{"product", "version", "key"} {
		cmd.MarkFlagRequired(name)
	}
	cmd.RegisterFlagCompletionFunc("product", e.completeProducts)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.tree, p.asJSON, p.seqGiven = args[0], *asJSON, cmd.Flags().Changed("seq")
		if err := p.check(); err != nil {
			return err
		}
		var err error
		if p.keys, err = e.readKeys(p.keyFiles); err != nil {
			return err
		}
		return e.publish(cmd.Context(), &p)
	}
	return cmd
}

// check finds what is wrong with the command line before anything is done.
func (p *publishing) check() error {
	if _, err := product(p.product); err != nil {
		return err
	}
	if err := announce.ValidVersion(p.version); err != nil {
		return badUsage("give --version with at most 64 printable bytes", "%w", err)
	}
	if p.seqGiven && p.seq == 0 {
		return badUsage("leave --seq out to take the next number", "a release's number is at least 1")
	}
	if len(p.notes) > manifest.MaxNotes || !utf8.ValidString(p.notes) {
		return badUsage("put longer notes into a file of the tree", "notes are UTF-8 text of at most %d bytes", manifest.MaxNotes)
	}
	if err := p.checkExpires(); err != nil {
		return err
	}
	info, err := os.Stat(p.tree)
	if err != nil {
		return advise(p2p.CodeNotFound, "give the directory to publish", fmt.Errorf("reading the tree: %w", err))
	}
	if !info.IsDir() {
		return advise(p2p.CodeBadInput, "give the directory to publish", fmt.Errorf("reading the tree: %s is not a directory", p.tree))
	}
	return p.checkKeys()
}

func (p *publishing) checkExpires() (err error) {
	if p.expires == "" {
		return nil
	}
	if p.lasts, err = parseSpan(p.expires); err != nil {
		return badUsage("give it as 36h or 7d", "reading --expires %q: %w", p.expires, err)
	}
	return nil
}

// checkKeys keeps a key out of what it signs: a private key that was published is a public one.
func (p *publishing) checkKeys() error {
	tree, err := filepath.EvalSymlinks(p.tree)
	if err == nil {
		tree, err = filepath.Abs(tree)
	}
	if err != nil {
		return fmt.Errorf("reading the tree: %w", err)
	}
	for _, file := range p.keyFiles {
		key, err := filepath.EvalSymlinks(file)
		if err == nil {
			key, err = filepath.Abs(key)
		}
		if err == nil && strings.HasPrefix(key, strings.TrimSuffix(tree, "/")+"/") {
			return advise(p2p.CodeBadInput, "move the key out of the tree", fmt.Errorf("the private key %s lies in the tree %s and would be published", file, p.tree))
		}
	}
	return nil
}

// parseSpan reads a positive time; beyond the units of Go it knows d, a day.
func parseSpan(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, isDays := strings.CutSuffix(s, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err == nil && d <= 0 {
		err = errors.New("it is not in the future")
	}
	return d, err
}

func (e *env) publish(ctx context.Context, p *publishing) error {
	return e.withNode(ctx, func(s *session) error {
		began := time.Now()
		unlock, err := e.lockPublish(ctx, s.home)
		if err != nil {
			return err
		}
		defer unlock()
		next, err := s.Next(ctx, p.product)
		if err != nil {
			return err
		}
		if err := p.mayPublish(next); err != nil {
			return err
		}
		e.warnUrgent(p, next)
		seq := next.Seq
		if p.seqGiven {
			seq = p.seq
		}
		may := &manifest.Policy{Setuid: next.MaySetuid, Names: next.MayNames, LinkOut: next.MayLinkOut, Run: next.MayRun}
		terms, err := e.termsNow(s, p, next)
		if err != nil {
			return err
		}
		res, err := e.storeTree(ctx, s, p, may, manifest.Header{Product: p.product, Epoch: next.Epoch, Seq: seq, Version: p.version, Notes: p.notes, Terms: terms})
		if err != nil {
			return err
		}
		if res.Files+res.Links == 0 && !p.allowEmpty && next.Class != announce.ClassBookkeeping {
			return advise(p2p.CodeBadInput, "check the directory, or give --allow-empty to empty every follower's tree",
				fmt.Errorf("the tree %s has no file in it; nothing was announced", p.tree))
		}
		if res.Closed > 0 {
			e.say("hint", fmt.Sprintf("%s can be written by everybody here, and cannot be in the release", count(res.Closed, "file or directory", "files and directories")))
		}
		out, err := p.announce(ctx, s, next, seq, res)
		if err != nil {
			return err
		}
		out.Seconds = time.Since(began).Seconds()
		if p.asJSON {
			return e.printJSON(out)
		}
		e.printPublished(out)
		return nil
	})
}

// warnUrgent says when an urgent release will wake nobody.
func (e *env) warnUrgent(p *publishing, next p2p.NextRelease) {
	wakers := map[string]bool{}
	for _, k := range p.keys {
		if id := k.Public().ID().String(); slices.Contains(next.WakeKeys, id) {
			wakers[id] = true
		}
	}
	switch {
	case !p.urgent:
	case !next.MayWake:
		e.say("warning", fmt.Sprintf("the trust root does not let %s wake machines: --urgent will wake none", p.product))
	case next.WakeThreshold == 0 || len(wakers) < next.WakeThreshold:
		e.say("warning", fmt.Sprintf("--urgent will wake nobody: it needs the signatures of %d of the wake role's keys (%s), too",
			max(1, next.WakeThreshold), strings.Join(next.WakeKeys, ", ")))
	}
}

// lockPublish has publishes into one home take turns: two at once would sign two releases with one number.
func (e *env) lockPublish(ctx context.Context, home string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(home, "publish.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("taking the publish lock: %w", err)
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for waited := false; ; waited = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("taking the publish lock: %w", err)
		}
		if !waited {
			e.say("hint", "another publish into this home is under way: waiting for it")
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// mayPublish refuses, before the tree is read, what the node would refuse after.
func (p *publishing) mayPublish(next p2p.NextRelease) error {
	if p.seqGiven && p.seq < next.Seq {
		return advise(p2p.CodeOlder, "leave --seq out to take the next number",
			fmt.Errorf("release %d of %s is not newer: the next number is %d", p.seq, p.product, next.Seq))
	}
	signers := map[string]bool{}
	for _, k := range p.keys {
		id := k.Public().ID().String()
		if slices.Contains(next.Keys, id) {
			signers[id] = true
		} else if !p.urgent || !slices.Contains(next.WakeKeys, id) { // a key of the wake role signs an urgent release too
			return advise(p2p.CodeRefused, "sign with one of "+strings.Join(next.Keys, ", "),
				fmt.Errorf("key %s may not sign releases of %s", id, p.product))
		}
	}
	if len(signers) < next.Threshold {
		return advise(p2p.CodeRefused, fmt.Sprintf("give --key %d times, with keys of %s", next.Threshold, strings.Join(next.Keys, ", ")),
			fmt.Errorf("%s needs the signatures of %d keys and %d are here", p.product, next.Threshold, len(signers)))
	}
	return nil
}

func storeDir(home string) string { return filepath.Join(home, "store") }

// storeTree hashes the tree into the home's store, in this process.
func (e *env) storeTree(ctx context.Context, s *session, p *publishing, may *manifest.Policy, head manifest.Header) (*store.PublishResult, error) {
	st, err := store.Open(storeDir(s.home))
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	defer st.Close()
	line := e.progressLine()
	defer line.clear()
	res, err := st.Publish(ctx, p.tree, store.PublishOptions{Header: head, Policy: may, Progress: func(g store.PublishProgress) {
		more := ""
		if !g.Walked {
			more = " so far"
		}
		line.show("reading %s: %s of %s%s, %s files", clean(p.tree), size(g.Bytes), size(g.TotalBytes), more, thousands(uint64(g.Files)))
	}})
	switch {
	case err == nil:
		return res, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, store.ErrNoSpace):
		return nil, advise(p2p.CodeNoSpace, "make room on the disk of the home, for example with \"satchel prune\"; nothing was announced", err)
	}
	var tree *store.TreeError
	if errors.As(err, &tree) {
		return nil, advise(p2p.CodeBadInput, "mend or remove them and publish again; nothing was announced", err)
	}
	return nil, err
}

// announce signs the release and hands it to the node.
func (p *publishing) announce(ctx context.Context, s *session, next p2p.NextRelease, seq uint64, res *store.PublishResult) (*published, error) {
	now := time.Now()
	a := announce.Announcement{Product: p.product, RootVer: next.RootVersion, Epoch: next.Epoch, Seq: seq, Version: p.version,
		Manifest: res.Manifest, ManifestSize: res.ManifestSize, TotalSize: res.TotalSize, Issued: now.Unix(), Floor: max(next.Floor, p.floor),
		Urgent: p.urgent, Recall: p.recall, MinUpdater: p.minUpdater, Via: p.via}
	if p.lasts > 0 {
		a.Expires = now.Add(p.lasts).Unix()
	}
	envelope, err := a.Sign(p.keys...)
	if err != nil {
		return nil, fmt.Errorf("signing the announcement: %w", err)
	}
	if err := s.Announce(ctx, envelope); err != nil {
		return nil, err
	}
	out := &published{Product: p.product, Epoch: a.Epoch, Seq: seq, Version: p.version, Urgent: p.urgent, Recall: p.recall, Floor: a.Floor, Issued: a.Issued, Expires: a.Expires,
		Manifest: res.Manifest.String(), ManifestSize: res.ManifestSize, TotalSize: res.TotalSize, Files: res.Files, Dirs: res.Dirs, Links: res.Links,
		BlobsNew: res.NewBlobs, BlobsHere: res.OldBlobs, BytesNew: res.NewBytes, BytesHere: res.OldBytes, ChunkBytesNew: res.NewChunkBytes,
		AnnouncementSize: len(envelope), Running: s.Running()}
	for _, k := range p.keys {
		out.Keys = append(out.Keys, k.Public().ID().String())
	}
	return out, nil
}

func (e *env) printPublished(p *published) {
	rows := []string{
		fmt.Sprintf("tree\t%s, %s, %s; %s", count(p.Files, "file", "files"), count(p.Dirs, "directory", "directories"),
			count(p.Links, "link", "links"), size(p.TotalSize)),
		fmt.Sprintf("new\t%s, %s; %s of it in chunks that were nowhere in the store", count(p.BlobsNew, "blob", "blobs"), size(p.BytesNew), size(p.ChunkBytesNew)),
		fmt.Sprintf("here already\t%s, %s", count(p.BlobsHere, "blob", "blobs"), size(p.BytesHere)),
		fmt.Sprintf("manifest\t%s, %s", p.Manifest, size(p.ManifestSize)),
		fmt.Sprintf("announcement\t%d bytes, signed by %s", p.AnnouncementSize, strings.Join(p.Keys, ", ")),
	}
	urgent := ""
	if p.Urgent {
		urgent = ", urgent"
	}
	fmt.Fprintf(e.stdout, "published %s %s (epoch %d, seq %d%s) in %.1f s\n", p.Product, clean(p.Version), p.Epoch, p.Seq, urgent, p.Seconds)
	table(e.stdout, rows...)
	if !p.Running {
		e.say("hint", "no node runs on this home: start one with \"satchel up\", so that neighbours can fetch the release")
	}
}
