package image

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"satchel/store"
	"satchel/store/image/boot"
	"satchel/store/manifest"
)

// Release says which release a deployment is.
type Release struct {
	Product  string
	Epoch    uint64
	Seq      uint64
	Version  string  // for people
	Manifest cid.Cid // of the manifest; undefined when the file beside the tree was lost
}

// Deployment is one complete tree of an image.
type Deployment struct {
	ID       string    // its directory's name below deploy
	Releases []Release // what it is composed of, sorted by product; none when that is not known
	Created  time.Time // when it was staged, by this machine's clock, in whole seconds UTC; zero when unknown
	Pinned   bool      // [Image.Prune] keeps it
	Patches  []string  // ids of the patches that are in it, as its releases say; sorted
	From     string    // the deployment whose local changes were carried over; empty when none were
	Local    []Local   // what of the person's was carried over into it, sorted by path

	config []string // paths at and below which it may differ
	seen   string   // digest of how those looked in the deployment From
	lived  bool     // it was live once: what is in config is its own
	number int64    // counts deployments in the order of staging, since clocks cannot be trusted for that
}

// Release gives the deployment's release of a product.
func (d Deployment) Release(product string) (Release, bool) {
	for _, r := range d.Releases {
		if r.Product == product {
			return r, true
		}
	}
	return Release{}, false
}

// Local is one path where a deployment differs from its releases because the person wants it so.
type Local struct {
	Path string
	What string // kept, conflict, added or removed
}

// shortLen is how many characters of the manifest's CID an id ends with.
const shortLen = 8

// short is the part of a CID that tells releases apart; its beginning is the same for all.
func short(c cid.Cid) string {
	s := c.String()
	return s[max(0, len(s)-shortLen):]
}

// ID is the name of a release's deployment: <product>-<epoch>-<seq>-<last 8 characters of the manifest's CID>.
func (r Release) ID() string {
	return fmt.Sprintf("%s-%d-%d-%s", r.Product, r.Epoch, r.Seq, short(r.Manifest))
}

// check refuses a release that has no proper id.
func (r Release) check() error {
	if err := manifest.CheckHeader(&manifest.Header{Product: r.Product, Version: r.Version}); err != nil {
		return err
	}
	if _, err := store.ParseCID(r.Manifest.Bytes()); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	_, err := parseID(r.ID())
	return err
}

// idOf is the name of the deployment of some releases, sorted by product: that of the release when there is but one, and
// set-<number of releases>-<first 8 characters of the base32 SHA-256 of their ids, a line each> otherwise.
func idOf(releases []Release) string {
	if len(releases) == 1 {
		return releases[0].ID()
	}
	h := sha256.New()
	for _, r := range releases {
		fmt.Fprintln(h, r.ID())
	}
	text := base32.StdEncoding.EncodeToString(h.Sum(nil))
	return fmt.Sprintf("set-%d-%s", len(releases), strings.ToLower(text[:shortLen]))
}

const base32Digits = "abcdefghijklmnopqrstuvwxyz234567"

// parseID refuses what is not the id of a deployment: of one release, of a set of releases, or a name that a person gave. Of the
// first it says the release, without version and manifest, which are not in the id.
func parseID(id string) (Release, error) {
	if r, ok := parseReleaseID(id); ok {
		return r, nil
	}
	if isSetID(id) || CheckName(id) == nil {
		return Release{}, nil
	}
	return Release{}, fmt.Errorf("%q is not the id of a deployment", id)
}

func parseReleaseID(id string) (Release, bool) {
	parts := strings.Split(id, "-")
	n := len(parts)
	if n < 4 || len(parts[n-1]) != shortLen || strings.Trim(parts[n-1], base32Digits) != "" {
		return Release{}, false
	}
	epoch, ok1 := boot.ParseNumber(parts[n-3])
	seq, ok2 := boot.ParseNumber(parts[n-2])
	r := Release{Product: strings.Join(parts[:n-3], "-"), Epoch: epoch, Seq: seq}
	return r, ok1 && ok2 && manifest.CheckHeader(&manifest.Header{Product: r.Product}) == nil
}

func isSetID(id string) bool {
	parts := strings.Split(id, "-")
	if len(parts) != 3 || parts[0] != "set" || len(parts[2]) != shortLen || strings.Trim(parts[2], base32Digits) != "" {
		return false
	}
	n, ok := boot.ParseNumber(parts[1])
	return ok && n > 1
}

// maxName is the limit of the names that people give, in bytes.
const maxName = 64

// CheckName says why a person cannot give a deployment this name, or nil when that is possible.
func CheckName(name string) error {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	if name == "" || len(name) > maxName || strings.Trim(name, first+"._-") != "" || !strings.Contains(first, name[:1]) {
		return fmt.Errorf("name %q: must be 1 to %d of a-z, 0-9, '.', '_' and '-', the first a letter or digit", name, maxName)
	}
	if looksLikeID(name) {
		return fmt.Errorf("name %q: looks like the id of releases", name)
	}
	if strings.HasSuffix(name, infoSuffix) || strings.HasSuffix(name, tmpSuffix) {
		return fmt.Errorf("name %q: must not end with %s or %s", name, infoSuffix, tmpSuffix)
	}
	return nil
}

// looksLikeID knows ids of releases and what differs from one in its numbers or its end only: to take that for a name would hide an error.
func looksLikeID(name string) bool {
	parts := strings.Split(name, "-")
	n := len(parts)
	digits := func(i int) bool { return parts[i] != "" && strings.Trim(parts[i], "0123456789") == "" }
	return n > 3 && digits(n-3) && digits(n-2) || n == 3 && parts[0] == "set" && digits(1)
}

// info is the file beside a tree.
type info struct {
	Created  time.Time     `toml:"created"`
	Number   int64         `toml:"number"`
	Pinned   bool          `toml:"pinned,omitempty"`
	Patches  []string      `toml:"patches,omitempty"`
	Lived    bool          `toml:"lived,omitempty"`
	From     string        `toml:"from,omitempty"`
	Config   []string      `toml:"config,omitempty"`
	Seen     string        `toml:"seen,omitempty"`
	Releases []infoRelease `toml:"release"`
	Local    []infoLocal   `toml:"local,omitempty"`
}

type infoRelease struct {
	ID       string `toml:"id"` // holds product, epoch and seq
	Version  string `toml:"version"`
	Manifest string `toml:"manifest"`
}

type infoLocal struct {
	Path string `toml:"path"`
	What string `toml:"what"`
}

const (
	infoSuffix = ".toml"
	maxInfo    = 8 << 20 // bytes
	maxLocal   = 1000    // local changes that are recorded, the first ones
)

// writeInfo writes the file beside a tree, in place: it counts only once the tree has its name.
func (im *Image) writeInfo(d Deployment) (err error) {
	text, err := d.encode()
	if err != nil {
		return fmt.Errorf("writing what %s is: %w", d.ID, err)
	}
	name := d.ID + infoSuffix
	if err := im.deploy.unlink(name); err != nil {
		return err
	}
	return im.deploy.writeFile(name, text, 0o644)
}

// encode prints the file beside the tree. Names on a disk may be no text; what is not is shown by a replacement character.
func (d *Deployment) encode() ([]byte, error) {
	i := info{Created: d.Created, Number: d.number, Pinned: d.Pinned, Patches: d.Patches, Lived: d.lived, From: d.From, Config: d.config, Seen: d.seen}
	for _, r := range d.Releases {
		i.Releases = append(i.Releases, infoRelease{r.ID(), r.Version, r.Manifest.String()})
	}
	for _, l := range d.Local[:min(len(d.Local), maxLocal)] {
		i.Local = append(i.Local, infoLocal{strings.ToValidUTF8(l.Path, "\uFFFD"), l.What})
	}
	return toml.Marshal(i)
}

// writeFile makes a new file, durable but for its name.
func (d *dir) writeFile(name string, text []byte, mode uint32) error {
	f, err := d.create(name)
	if err != nil {
		return err
	}
	err = d.change("writing", name, func() error { _, err := f.Write(text); return err })
	if err == nil {
		err = d.change("setting mode of", name, func() error { return setMode(f, mode) })
	}
	if err == nil {
		err = d.change("syncing", name, f.Sync)
	}
	return errors.Join(err, f.Close())
}

// readFile reads a small file.
func (d *dir) readFile(name string, limit int64) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = &fs.PathError{Op: "reading", Path: d.at(name), Err: fmt.Errorf("more than %d bytes", limit)}
	}
	return text, err
}

// load says what a deployment is: all of it when the file beside the tree is sound, otherwise what the id says.
func (im *Image) load(id string) (d Deployment, sound bool) {
	r, err := parseID(id)
	if err != nil {
		return d, false
	}
	d = Deployment{ID: id}
	if r.Product != "" {
		d.Releases = []Release{r}
	}
	text, err := im.deploy.readFile(id+infoSuffix, maxInfo)
	if err != nil {
		return d, false
	}
	full, err := parseInfo(id, text)
	if err != nil {
		return d, false
	}
	return full, true
}

// parseInfo reads what encode prints.
func parseInfo(id string, text []byte) (Deployment, error) {
	var i info
	if err := toml.Unmarshal(text, &i); err != nil {
		return Deployment{}, err
	}
	d := Deployment{ID: id, Created: i.Created.UTC().Truncate(time.Second), Pinned: i.Pinned, Patches: i.Patches, From: i.From,
		config: i.Config, seen: i.Seen, lived: i.Lived, number: i.Number}
	for _, path := range d.config {
		if err := manifest.CheckPath(path); err != nil {
			return d, err
		}
	}
	for _, x := range i.Releases {
		r, ok := parseReleaseID(x.ID)
		if !ok {
			return d, fmt.Errorf("%q is not the id of a release", x.ID)
		}
		c, err := cid.Decode(x.Manifest)
		if err != nil {
			return d, err
		}
		r.Version, r.Manifest = x.Version, c
		if err := r.check(); err != nil {
			return d, err
		}
		if n := len(d.Releases); r.ID() != x.ID || n > 0 && d.Releases[n-1].Product >= r.Product {
			return d, fmt.Errorf("release %s: not its id, or out of order", x.ID)
		}
		d.Releases = append(d.Releases, r)
	}
	if len(d.Releases) == 0 || CheckName(id) != nil && idOf(d.Releases) != id {
		return d, fmt.Errorf("releases do not make up %s", id)
	}
	for _, l := range i.Local {
		d.Local = append(d.Local, Local(l))
	}
	return d, nil
}

// has says whether a deployment is there.
func (im *Image) has(id string) (bool, error) {
	if _, err := parseID(id); err != nil {
		return false, err
	}
	kind, err := im.deploy.kind(id)
	return kind == unix.S_IFDIR, err
}

// need is an error with [ErrNotFound] when a deployment is not there.
func (im *Image) need(id string) error {
	ok, err := im.has(id)
	if err == nil && !ok {
		return fmt.Errorf("%q: %w", id, ErrNotFound)
	}
	return err
}

// Live is the deployment in force. It is false when nothing was activated yet.
func (im *Image) Live() (Deployment, bool) { return im.named(im.record().Live) }

// Previous is the deployment that [Image.Rollback] goes back to. It is false when there is none.
func (im *Image) Previous() (Deployment, bool) { return im.named(im.record().Previous) }

func (im *Image) named(id string) (Deployment, bool) {
	if id == "" {
		return Deployment{}, false
	}
	d, _ := im.load(id)
	return d, true
}

// List gives all deployments, in the order in which they were staged.
func (im *Image) List() ([]Deployment, error) {
	names, err := im.deployNames()
	if err != nil {
		return nil, fmt.Errorf("listing deployments: %w", err)
	}
	var list []Deployment
	for _, name := range names {
		if ok, err := im.has(name); err == nil && ok {
			d, _ := im.load(name)
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b Deployment) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// deployNames lists the deploy directory with a descriptor of its own, since one has but one position.
func (im *Image) deployNames() ([]string, error) {
	d, err := im.root.sub(deployName)
	if err != nil {
		return nil, err
	}
	defer d.close()
	return d.names(-1)
}

// Tree is the path of a deployment's tree, or empty when id is not an id.
func (im *Image) Tree(id string) string {
	if _, err := parseID(id); err != nil {
		return ""
	}
	return filepath.Join(im.dir, deployName, id)
}

var _ Blobs = (*store.Store)(nil)

// Blobs is where the content of files comes from; [store.Store] is one. Its methods may be called by several goroutines at once.
type Blobs interface {
	// Has says whether the blob is there.
	Has(c cid.Cid) bool
	// BlobFile gives the path of a file with the blob's content and exactly this mode, on which a hard link can be made.
	BlobFile(c cid.Cid, mode uint32) (path string, err error)
	// OpenBlob opens the blob for reading and gives its size in bytes. The caller closes it.
	OpenBlob(c cid.Cid) (*os.File, int64, error)
	// Manifest reads a manifest, whose bytes were compared with the CID. The error has [store.ErrNotFound] in its chain when it is
	// not there.
	Manifest(c cid.Cid) (*manifest.Manifest, error)
	// Discard takes a blob away whose file turned out to have other content.
	Discard(c cid.Cid) error
}
