package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"satchel/announce"
	"satchel/p2p"
)

// newRoot is what the command line of "root new" says.
type newRoot struct {
	out       string
	keyFiles  []string
	threshold int
	products  []string
	class     string
	may       []string
	asleep    bool
	renewBy   string
}

func newRootNewCommand(e *env) *cobra.Command {
	var n newRoot
	cmd := &cobra.Command{
		Use:   "new --out ROOT --key FILE... [--threshold N] [--product PATTERN]...",
		Short: "make a trust root",
		Long: withExit(`Make the first version of a trust root. A private key is yours and signs; a public
one is somebody else's, who signs later with "satchel root sign". All the keys
together may sign releases of the products that match a PATTERN (a name,
"prefix.*" or "*"), timestamps, urgent releases, and later versions of the root:
as many of them as --threshold says must sign each. "root add-key", "root
remove-key" and "root set" change that, key by key and product by product.

Give the file to every machine by a way that nobody can tamper with: whoever
makes a machine trust another root owns it. ROOT is not overwritten.

With one key that key can do everything, and who steals it too: for more than a
trial, use three keys of three people and --threshold 2.`, exitOK, exitFailure, exitUsage, exitNotFound),
		Example: `  satchel root new --out school.root --key school.key
  satchel root new --out school.root --key ana.key --key bo.key.pub --key chi.key.pub --threshold 2
  satchel root new --out maths.root --key maths.key --product 'lessons.maths' --product 'lessons.maths.*'
  satchel root new --out os.root --key os.key --product xo-os --class system --may setuid,link-out,run`,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(*cobra.Command, []string) error { return e.newRoot(&n) },
	}
	f := cmd.Flags()
	f.StringVar(&n.out, "out", "", "`FILE` to write")
	f.StringArrayVar(&n.keyFiles, "key", nil, "key `FILE`: a private one signs; may be repeated")
	f.IntVar(&n.threshold, "threshold", 1, "how many `N` of the keys must sign")
	f.StringArrayVar(&n.products, "product", []string{"*"}, "`PATTERN` of products; may be repeated")
	f.StringVar(&n.class, "class", announce.ClassContent, "`CLASS` of these products: content, system or bookkeeping")
	f.StringSliceVar(&n.may, "may", nil, "`WHAT` these products may beyond waking: setuid, names, link-out, run")
	f.BoolVar(&n.asleep, "no-wake", false, "urgent releases of these products may not wake sleeping machines")
	f.StringVar(&n.renewBy, "renew-by", "", "`DATE` after which people are reminded to renew the root, as 2028-09-01")
	cmd.MarkFlagRequired("out")
	cmd.MarkFlagRequired("key")
	return cmd
}

func (e *env) newRoot(n *newRoot) error {
	rule := announce.ProductRule{Epoch: 1, Class: n.class, MayWake: !n.asleep}
	root := &announce.Root{Version: 1, Issued: max(time.Now().Unix(), 0), Roles: map[announce.Role]announce.RoleRule{}}
	if err := n.check(root, &rule); err != nil {
		return err
	}
	var ids []announce.KeyID
	var private []announce.PrivateKey
	for _, file := range n.keyFiles {
		key, mine, err := e.readEither(file)
		if err != nil {
			return err
		}
		if slices.Contains(ids, key.ID()) {
			return badUsage("give each key once, its private or its public half", "key %s is given twice", key.ID())
		}
		root.Keys, ids, private = append(root.Keys, key), append(ids, key.ID()), append(private, mine...)
	}
	if n.threshold < 1 || n.threshold > len(ids) {
		return badUsage(fmt.Sprintf("give --threshold from 1 to %d, or more keys", len(ids)), "a threshold of %d cannot be with %s",
			n.threshold, count(len(ids), "key", "keys"))
	}
	for _, role := range []announce.Role{announce.RoleRoot, announce.RoleTimestamp, announce.RoleWake} {
		root.Roles[role] = announce.RoleRule{Keys: ids, Threshold: n.threshold}
	}
	rule.Keys, rule.Threshold = ids, n.threshold
	for _, p := range n.products {
		rule.Pattern = p
		root.Products = append(root.Products, rule)
	}
	f, err := announce.NewRootFile(root)
	if err == nil {
		err = f.Sign(private...)
	}
	if err != nil {
		return advise(p2p.CodeBadInput, "give at most 64 keys and 1024 products", err)
	}
	if err := writeNew(n.out, f.Encode(), 0o644); err != nil {
		return err
	}
	who := "key " + ids[0].String()
	if len(ids) > 1 {
		who = fmt.Sprintf("%d of the keys %s", n.threshold, strings.Join(idStrings(ids), ", "))
	}
	fmt.Fprintf(e.stdout, "trust root version 1 in %s: %s may publish %s\n", n.out, who, strings.Join(n.products, ", "))
	if f.Verify() != nil {
		e.sayDraft(n.out, f)
	}
	return nil
}

// readEither reads a public key, or a private one, which is mine to sign with then.
func (e *env) readEither(file string) (key announce.PublicKey, mine []announce.PrivateKey, err error) {
	text, _, err := readSmall(file, maxKeyFile)
	if err != nil {
		return key, nil, fmt.Errorf("reading the key: %w", err)
	}
	if key, err := announce.ParsePublicKey(text); err == nil {
		return key, nil, nil
	}
	private, err := e.readKey(file)
	return private.Public(), []announce.PrivateKey{private}, err
}

// check finds what is wrong with the command line, and fills in what it says.
func (n *newRoot) check(root *announce.Root, rule *announce.ProductRule) (err error) {
	for i, p := range n.products {
		if err := checkPattern(p); err != nil {
			return err
		}
		if slices.Contains(n.products[:i], p) {
			return badUsage("give each pattern once", "pattern %q is given twice", p)
		}
	}
	if n.renewBy != "" {
		if root.RenewBy, err = parseDay(n.renewBy); err != nil {
			return err
		}
	}
	for _, word := range n.may {
		on, err := may(rule, word)
		if err != nil {
			return err
		}
		if word == "wake" && n.asleep {
			return badUsage("leave one of them out", "--may wake and --no-wake say opposite things")
		}
		*on = true
	}
	return checkClass(n.class)
}
