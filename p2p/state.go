package p2p

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	bolt "go.etcd.io/bbolt"

	"satchel/announce"
)

// state is HOME/state.db: the small things that change. One process writes it. Losing it loses nothing that a
// person or a neighbour cannot tell again.
//
//	roots      version (8 bytes, big endian) → trust root envelope; "rival" → a second root of a version
//	announced  product → newest accepted envelope
//	evidence   number → two envelopes that claim one release number
//	timestamps number → the count of seconds when it came, envelope
//	follows    product → image directory
//	carries    pattern → ""
//	complete   manifest CID → "" : every blob of it is in the store
//	fetches    product → the last finished fetch, as FetchStatus
//	peers      node id → addresses and when it was last seen
//	published  product → "": it was announced from this home, which keeps its newest release
//	history    product, epoch and seq of what was announced from this home → manifest CID
//	marks      product → epoch, seq and floor: the highest that was ever accepted in the epoch
//	anew       product → "": a person replaced the trust root, and its live release may be followed by a lower number
//	left       image directory → what a person went back from, so that no policy applies it again
//	policies   image directory → ask, auto or never
//	meta       "hold" → until when nothing is applied; "port" → the port of the last run, "count" → the seconds that the home has counted
type state struct {
	db *bolt.DB
}

var buckets = []string{"roots", "announced", "evidence", "follows", "carries", "complete", "fetches", "peers", "meta", "published", "timestamps", "history", "marks", "anew", "policies", "left"}

func openState(home string) (*state, error) {
	db, err := bolt.Open(filepath.Join(home, "state.db"), 0o600, &bolt.Options{Timeout: 2 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("opening state.db: %w", err)
	}
	s := &state{db}
	if err := s.prepare(); err != nil {
		db.Close()
		return nil, fmt.Errorf("preparing state.db: %w", err)
	}
	return s, nil
}

// prepare makes the buckets that are missing. When none is, nothing is written: most verbs only look.
func (s *state) prepare() error {
	missing := 0
	s.db.View(func(tx *bolt.Tx) error {
		for _, b := range buckets {
			if tx.Bucket([]byte(b)) == nil {
				missing++
			}
		}
		return nil
	})
	if missing == 0 {
		return nil
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *state) close() error { return s.db.Close() }

func (s *state) put(bucket, key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), value) })
	if err != nil {
		return fmt.Errorf("writing state.db: %w", err)
	}
	return nil
}

func (s *state) delete(bucket, key string) error {
	return s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Delete([]byte(key)) })
}

func (s *state) get(bucket, key string) (value []byte, ok bool) {
	s.db.View(func(tx *bolt.Tx) error {
		if v := tx.Bucket([]byte(bucket)).Get([]byte(key)); v != nil {
			value, ok = append([]byte{}, v...), true
		}
		return nil
	})
	return value, ok
}

func (s *state) all(bucket string, f func(key string, value []byte)) error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(k, v []byte) error {
			f(string(k), append([]byte{}, v...))
			return nil
		})
	})
}

// saveCatalog makes the buckets of the catalog say exactly what it holds, in one transaction.
func (s *state) saveCatalog(c *announce.Catalog) error {
	k := c.Kept()
	roots, announced, evidence, times := map[string][]byte{}, map[string][]byte{}, map[string][]byte{}, map[string][]byte{}
	for _, step := range c.RootChain() {
		roots[string(binary.BigEndian.AppendUint64(nil, step.Version))] = step.Envelope
	}
	if k.Rival != nil {
		roots["rival"] = k.Rival
	}
	for _, h := range c.Heads() {
		if _, env, ok := c.Latest(h.Product); ok {
			announced[h.Product] = env
		}
	}
	marks := map[string][]byte{}
	for _, m := range k.Marks {
		v := binary.AppendUvarint(binary.AppendUvarint(nil, m.Epoch), m.Seq)
		marks[m.Product] = binary.AppendUvarint(v, m.Floor)
	}
	for i, e := range k.Evidence {
		v := binary.AppendUvarint(nil, uint64(len(e.A)))
		evidence[fmt.Sprintf("%05d", i)] = append(append(v, e.A...), e.B...)
	}
	for i, t := range k.Timestamps {
		times[fmt.Sprintf("%02d", i)] = append(binary.AppendVarint(nil, t.Up), t.Envelope...)
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		return errors.Join(replace(tx, "roots", roots), replace(tx, "announced", announced), replace(tx, "evidence", evidence),
			replace(tx, "timestamps", times), replace(tx, "marks", marks))
	})
}

// replace makes bucket hold exactly want, writing only what differs.
func replace(tx *bolt.Tx, bucket string, want map[string][]byte) error {
	b := tx.Bucket([]byte(bucket))
	var gone [][]byte
	same := map[string]bool{}
	b.ForEach(func(k, v []byte) error {
		if w, ok := want[string(k)]; !ok {
			gone = append(gone, bytes.Clone(k))
		} else if bytes.Equal(v, w) {
			same[string(k)] = true
		}
		return nil
	})
	for _, k := range gone {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	for k, v := range want {
		if !same[k] {
			if err := b.Put([]byte(k), v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *state) loadCatalog() (*announce.Catalog, error) {
	var k announce.Kept
	s.all("roots", func(version string, v []byte) {
		if version == "rival" {
			k.Rival = v
		} else {
			k.Chain = append(k.Chain, v)
		}
	})
	s.all("announced", func(_ string, v []byte) { k.Announcements = append(k.Announcements, v) })
	s.all("evidence", func(_ string, v []byte) {
		b := &body{b: v}
		if a := b.counted("evidence"); b.err == nil {
			k.Evidence = append(k.Evidence, announce.Evidence{A: a, B: b.b})
		}
	})
	s.all("timestamps", func(_ string, v []byte) {
		if up, n := binary.Varint(v); n > 0 {
			k.Timestamps = append(k.Timestamps, announce.KeptTimestamp{Up: up, Envelope: v[n:]})
		}
	})
	s.all("marks", func(product string, v []byte) {
		b := &body{b: v}
		m := announce.Mark{Product: product, Epoch: b.uvarint("epoch"), Seq: b.uvarint("seq"), Floor: b.uvarint("floor")}
		if b.err == nil {
			k.Marks = append(k.Marks, m)
		}
	})
	return announce.Restore(k)
}

func (s *state) complete(m cid.Cid) bool {
	_, ok := s.get("complete", m.String())
	return ok
}

func (s *state) setComplete(m cid.Cid, whole bool) error {
	if whole {
		return s.put("complete", m.String(), nil)
	}
	return s.delete("complete", m.String())
}

// getJSON reads what putJSON wrote; false when there is nothing that can be read.
func (s *state) getJSON(bucket, key string, v any) bool {
	text, ok := s.get(bucket, key)
	return ok && json.Unmarshal(text, v) == nil
}

func (s *state) putJSON(bucket, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.put(bucket, key, b)
}

// savePeers makes the bucket of peers say what is worth dialling again: whoever was reached, the latest first.
func (s *state) savePeers(t *table) error {
	var ks []*known
	for _, k := range t.known {
		if k.reached && len(k.addrs) > 0 {
			ks = append(ks, k)
		}
	}
	slices.SortFunc(ks, func(a, b *known) int { return b.lastSeen.Compare(a.lastSeen) })
	want := map[string][]byte{}
	for _, k := range ks[:min(len(ks), maxRemembered)] {
		text, err := json.Marshal(k.remember())
		if err != nil {
			return err
		}
		want[k.ID.String()] = text
	}
	return s.db.Update(func(tx *bolt.Tx) error { return replace(tx, "peers", want) })
}

// loadIdentity returns the node's key, made at the first start. Losing the file only makes this a new node.
func loadIdentity(home string) (crypto.PrivKey, error) {
	file := filepath.Join(home, "identity")
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return makeIdentity(home, file)
	}
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(b)), identityWord)
	if !ok {
		return nil, badIdentity(file, errors.New("not an identity file"))
	}
	raw, err := crypto.ConfigDecodeKey(text)
	if err != nil {
		return nil, badIdentity(file, err)
	}
	key, err := crypto.UnmarshalPrivateKey(raw)
	if err != nil {
		return nil, badIdentity(file, err)
	}
	return key, nil
}

const identityWord = "satchel-identity-v1 "

func badIdentity(file string, err error) error {
	return fail(CodeBadInput, "remove "+file+" and start again: the node then gets a new identity, nothing else is lost",
		fmt.Errorf("reading the node's identity: %w", err))
}

func makeIdentity(home, file string) (crypto.PrivKey, error) {
	key, _, err := crypto.GenerateKeyPair(crypto.Ed25519, -1)
	if err != nil {
		return nil, err
	}
	raw, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(home, filepath.Base(file), []byte(identityWord+crypto.ConfigEncodeKey(raw)+"\n"), true)
}

// writeFile replaces HOME/name as a whole: readers see the old text or the new one.
func writeFile(home, name string, text []byte, durable bool) error {
	f, err := os.CreateTemp(home, "."+name+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil && durable {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(home, name))
	}
	if err == nil && durable {
		err = syncDir(home)
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lockPatience is how long a home may be held by a verb, which has it for a moment only.
const lockPatience = 3 * time.Second

// lockHome makes the home when it is missing and takes it for this process. HOME/lock names the process, and
// says "node" when it is one that stays.
func lockHome(home string) (*os.File, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, homeError(home, err)
	}
	f, err := os.OpenFile(filepath.Join(home, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, homeError(home, err)
	}
	for end := time.Now().Add(lockPatience); ; time.Sleep(20 * time.Millisecond) {
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			break
		}
		text := make([]byte, 64)
		n, _ := f.ReadAt(text, 0)
		pid, kind, _ := strings.Cut(strings.TrimSpace(string(text[:n])), " ")
		if kind == "node" || time.Now().After(end) {
			f.Close()
			who := "another process"
			if pid != "" {
				who = "process " + pid
			}
			return nil, fail(CodeInUse, `stop it with "satchel down", or choose another home with --home`,
				fmt.Errorf("home %q is in use by %s", home, who))
		}
	}
	if err := signLock(f, ""); err != nil {
		f.Close()
		return nil, homeError(home, err)
	}
	return f, nil
}

// signLock writes who holds the home.
func signLock(f *os.File, kind string) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(fmt.Appendf(nil, "%d %s\n", os.Getpid(), kind), 0)
	return err
}

func homeError(home string, err error) error {
	switch {
	case errors.Is(err, syscall.EROFS), errors.Is(err, os.ErrPermission):
		return fail(CodeReadOnly, "choose a home that this user can write with --home DIR or SATCHEL_HOME, or mount it read-write",
			fmt.Errorf("home %q cannot be written: %w", home, err))
	case errors.Is(err, syscall.ENOSPC):
		return fail(CodeNoSpace, `make room on that disk, for example with "satchel prune"`, fmt.Errorf("home %q: %w", home, err))
	case errors.Is(err, syscall.ENOTDIR):
		return fail(CodeBadInput, "choose a directory with --home DIR", fmt.Errorf("home %q is not a directory: %w", home, err))
	}
	return fmt.Errorf("opening home %q: %w", home, err)
}
