package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"satchel/announce"
	"satchel/p2p"
)

// maxRootFile bounds a trust root, in bytes.
const maxRootFile = 64 << 10

func newRootDocCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "root",
		Short: "make or show a trust root",
		Long: withExit(`A trust root is the signed document that says which keys may publish which
products. Every machine of a mesh trusts the same one.`, exitOK, exitUsage),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRootNewCommand(e), newRootShowCommand(e))
	return cmd
}

func newRootNewCommand(e *env) *cobra.Command {
	var out, key string
	var products []string
	var asleep bool
	cmd := &cobra.Command{
		Use:   "new --out ROOT --key FILE [--product PATTERN]...",
		Short: "make a trust root of one key",
		Long: withExit(`Make the first version of a trust root and sign it. The key may then sign
releases of the products that match a PATTERN (a name, "prefix.*" or "*"), and
later versions of the root. Give the file to every machine by a way that nobody
can tamper with: whoever makes a machine trust another root owns it.

ROOT is not overwritten.`, exitOK, exitFailure, exitUsage),
		Example: `  satchel root new --out school.root --key school.key
  satchel root new --out maths.root --key maths.key --product 'lessons.maths' --product 'lessons.maths.*'`,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			for _, p := range products {
				if err := announce.ValidPattern(p); err != nil {
					return badUsage(`a pattern looks like xo-os, lessons.* or *`, "%w", err)
				}
			}
			k, err := e.readKey(key)
			if err != nil {
				return err
			}
			env, err := newRoot(k, products, !asleep, time.Now())
			if err != nil {
				return err
			}
			if err := writeNew(out, env, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(e.stdout, "trust root version 1 in %s: key %s may publish %s\n", out, k.Public().ID(), strings.Join(products, ", "))
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write")
	cmd.Flags().StringVar(&key, "key", "", "private key `FILE` that signs")
	cmd.Flags().StringArrayVar(&products, "product", []string{"*"}, "`PATTERN` of products that the key may publish; may be repeated")
	cmd.Flags().BoolVar(&asleep, "no-wake", false, "urgent releases of these products may not wake sleeping machines")
	cmd.MarkFlagRequired("out")
	cmd.MarkFlagRequired("key")
	return cmd
}

// newRoot makes the first version of a root in which one key fills every role.
func newRoot(key announce.PrivateKey, patterns []string, mayWake bool, now time.Time) ([]byte, error) {
	ids := []announce.KeyID{key.Public().ID()}
	role := announce.RoleRule{Keys: ids, Threshold: 1}
	root := &announce.Root{
		Version: 1,
		Issued:  now.Unix(),
		Keys:    []announce.PublicKey{key.Public()},
		Roles: map[announce.Role]announce.RoleRule{
			announce.RoleRoot: role, announce.RoleTimestamp: role, announce.RoleWake: role,
		},
	}
	for _, p := range patterns {
		root.Products = append(root.Products, announce.ProductRule{Pattern: p, Epoch: 1, Keys: ids, Threshold: 1,
			Class: announce.ClassContent, MayWake: mayWake, MaySetuid: true})
	}
	env, err := root.Sign(key)
	if err != nil {
		return nil, advise(p2p.CodeBadInput, "give each pattern once", fmt.Errorf("making the trust root: %w", err))
	}
	return env, nil
}

func newRootShowCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ROOT",
		Short: "say what a trust root says",
		Long: withExit(`Say what a trust root says, and whether its signatures are good. A later
version of a root is signed by keys of the version before, which are not in it:
"satchel trust" checks those.`, exitOK, exitFailure, exitUsage, exitRefused),
		Example: "  satchel root show school.root",
		Args:    exactly("ROOT"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		sr, err := e.readRoot(args[0])
		if err != nil {
			return err
		}
		verified := announce.VerifyGenesis(sr)
		if sr.Version > 1 {
			verified = announce.VerifyRotation(&sr.Root, sr)
		}
		if *asJSON {
			err = e.printJSON(rootWords(sr, verified == nil))
		} else {
			e.printRoot(sr)
		}
		if err == nil && verified != nil && sr.Version == 1 {
			err = advise(p2p.CodeRefused, "ask the publisher for the file again", fmt.Errorf("the root is not good: %w", verified))
		}
		return err
	}
	return cmd
}

// rootInfo is "root show --json".
type rootInfo struct {
	Version  uint64     `json:"version"`
	Issued   int64      `json:"issued"`
	RenewBy  int64      `json:"renew_by"`
	Verified bool       `json:"verified"`
	Keys     []string   `json:"keys"`
	Roles    []roleInfo `json:"roles"`
	Products []ruleInfo `json:"products"`
	Signers  []string   `json:"signers"`
}

type roleInfo struct {
	Role      string   `json:"role"`
	Keys      []string `json:"keys"`
	Threshold int      `json:"threshold"`
}

type ruleInfo struct {
	Pattern   string   `json:"pattern"`
	Epoch     uint64   `json:"epoch"`
	Keys      []string `json:"keys"`
	Threshold int      `json:"threshold"`
	Floor     uint64   `json:"floor"`
	Class     string   `json:"class"`
	MayWake   bool     `json:"may_wake"`
	MaySetuid bool     `json:"may_setuid"`
}

func rootWords(sr *announce.SignedRoot, verified bool) rootInfo {
	info := rootInfo{Version: sr.Version, Issued: sr.Issued, RenewBy: sr.RenewBy, Verified: verified, Signers: idStrings(sr.Signers())}
	for _, k := range sr.Keys {
		info.Keys = append(info.Keys, k.ID().String())
	}
	for _, r := range []announce.Role{announce.RoleRoot, announce.RoleTimestamp, announce.RoleWake} {
		if rule, ok := sr.Roles[r]; ok {
			info.Roles = append(info.Roles, roleInfo{r.String(), idStrings(rule.Keys), rule.Threshold})
		}
	}
	for _, p := range sr.Products {
		info.Products = append(info.Products, ruleInfo{p.Pattern, p.Epoch, idStrings(p.Keys), p.Threshold, p.Floor, p.Class, p.MayWake, p.MaySetuid})
	}
	return info
}

func (e *env) printRoot(sr *announce.SignedRoot) {
	info := rootWords(sr, true)
	rows := []string{fmt.Sprintf("version\t%d", info.Version)}
	if info.Issued > 0 {
		rows = append(rows, "issued\t"+time.Unix(info.Issued, 0).UTC().Format(time.DateTime)+" UTC")
	}
	rows = append(rows, "keys\t"+strings.Join(info.Keys, ", "))
	for _, r := range info.Roles {
		rows = append(rows, fmt.Sprintf("%s\t%d of %s", r.Role, r.Threshold, strings.Join(r.Keys, ", ")))
	}
	rows = append(rows, "signed by\t"+strings.Join(info.Signers, ", "))
	for _, p := range info.Products {
		text := fmt.Sprintf("product\t%s: %d of %s, epoch %d", clean(p.Pattern), p.Threshold, strings.Join(p.Keys, ", "), p.Epoch)
		if p.Floor > 0 {
			text += fmt.Sprintf(", not below seq %d", p.Floor)
		}
		if p.MayWake {
			text += ", may wake"
		}
		rows = append(rows, text)
	}
	table(e.stdout, rows...)
}

func idStrings(ids []announce.KeyID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}

// readRoot reads a trust root from a file, or from the standard input for "-".
func (e *env) readRoot(file string) (*announce.SignedRoot, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = readUpTo(e.stdin, maxRootFile, "standard input")
	} else {
		text, _, err = readSmall(file, maxRootFile)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the trust root: %w", err)
	}
	if strings.HasPrefix(string(text), "satchel-private-key") || strings.HasPrefix(string(text), "satchel-public-key") {
		return nil, advise(p2p.CodeRefused, "a trust root is made by \"satchel root new\"", fmt.Errorf("%s is a key, not a trust root", file))
	}
	sr, err := announce.ParseRoot(text)
	if err != nil {
		return nil, advise(p2p.CodeRefused, "a trust root is made by \"satchel root new\"", fmt.Errorf("reading the trust root %s: %w", file, err))
	}
	return sr, nil
}

// readSmall reads a regular file of at most limit bytes.
func readSmall(file string, limit int) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(file)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = advise(p2p.CodeNotFound, "check the name", err)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	text, err := readUpTo(f, limit, file)
	return text, info, err
}

func readUpTo(r io.Reader, limit int, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(text) > limit {
		err = fmt.Errorf("%s is too large: the limit is %d bytes", name, limit)
	}
	return text, err
}
