package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"satchel/announce"
	"satchel/p2p"
)

// readRoot reads a root file, or the standard input for "-".
func (e *env) readRoot(file string) (*announce.RootFile, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = readUpTo(e.stdin, announce.MaxRootFile, "standard input")
	} else {
		text, _, err = readSmall(file, announce.MaxRootFile)
	}
	if errors.Is(err, fs.ErrPermission) {
		err = advise(p2p.CodeBadInput, "have its owner let you read it: it holds no secret", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the root file: %w", err)
	}
	if strings.HasPrefix(string(text), "satchel-private-key") || strings.HasPrefix(string(text), "satchel-public-key") {
		return nil, advise(p2p.CodeRefused, "a root file is made by \"satchel root new\"", fmt.Errorf("%s is a key, not a root file", file))
	}
	f, err := announce.ParseRootFile(text)
	switch {
	case errors.Is(err, announce.ErrTooNew):
		return nil, advise(p2p.CodeRefused, "use the version of satchel that made it", fmt.Errorf("reading %s: %w", file, err))
	case err != nil:
		return nil, advise(p2p.CodeRefused, "a root file is made by \"satchel root new\"; if somebody gave you this one, ask for it again", fmt.Errorf("reading %s: %w", file, err))
	}
	return f, nil
}

// editRoot changes the last version of a root file by change, writes the file, and says what was done.
func (e *env) editRoot(file string, change func(f *announce.RootFile, next *announce.Root) error) error {
	f, err := e.readRootToWrite(file)
	if err != nil {
		return err
	}
	res, err := f.Edit(time.Now(), func(next *announce.Root) error { return change(f, next) })
	var back *announce.BackwardError
	switch {
	case errors.As(err, &back):
		return advise(p2p.CodeRefused, fmt.Sprintf("begin a new epoch: satchel root set %s --product '%s' --epoch %d", file, back.Rule.Pattern, back.Epoch+1),
			fmt.Errorf("changing %s: %w", file, err))
	case err != nil && p2p.HintOf(err) == "":
		return advise(p2p.CodeBadInput, fmt.Sprintf("see \"satchel root show %s\"", file), fmt.Errorf("changing %s: %w", file, err))
	case err != nil:
		return err
	}
	if res.Changed {
		if err := replaceFile(file, f.Encode()); err != nil {
			return err
		}
	}
	e.sayEdited(file, f, res)
	return nil
}

// readRootToWrite reads a root file that is going to be changed in place.
func (e *env) readRootToWrite(file string) (*announce.RootFile, error) {
	if file == "-" {
		return nil, badUsage("give the name of the file", "a root file is changed in place: - cannot be")
	}
	return e.readRoot(file)
}

func (e *env) sayEdited(file string, f *announce.RootFile, res announce.Edited) {
	switch {
	case !res.Changed:
		fmt.Fprintf(e.stdout, "%s: version %d says so already; nothing was changed\n", file, res.Version)
		return
	case res.Undone:
		fmt.Fprintf(e.stdout, "%s: the draft now says what version %d says, and is gone\n", file, res.Version)
	case res.Begun:
		fmt.Fprintf(e.stdout, "%s: a draft of version %d is begun\n", file, res.Version)
	default:
		fmt.Fprintf(e.stdout, "%s: the draft of version %d is changed\n", file, res.Version)
	}
	if len(res.Dropped) > 0 {
		e.say("warning", fmt.Sprintf("the draft has changed, so its signatures are gone: %s must sign again", strings.Join(idStrings(res.Dropped), ", ")))
	}
	if res.Cut {
		e.say("warning", fmt.Sprintf("a root file holds %d versions: the oldest one is no longer in it", announce.MaxRootSteps))
	}
	if !res.Undone {
		e.sayDraft(file, f)
	}
}

// sayDraft says what the last version changes, who has signed, and what to do next.
func (e *env) sayDraft(file string, f *announce.RootFile) {
	var rows []string
	steps := f.Steps()
	last := steps[len(steps)-1]
	if len(steps) > 1 {
		for _, c := range rootChanges(&steps[len(steps)-2].Root, &last.Root) {
			rows = append(rows, "change\t"+clean(c))
		}
	}
	for _, q := range f.Quorums() {
		rows = append(rows, "signatures\t"+q.String())
	}
	table(e.stdout, rows...)
	switch {
	case f.Verify() != nil:
		e.say("hint", fmt.Sprintf("pass it on to those who must sign: satchel root sign %s --key KEY", file))
	case last.Version == 1:
		e.say("hint", fmt.Sprintf("version 1 is complete: satchel trust %s on every machine, by a way that nobody can tamper with", file))
	default:
		e.say("hint", fmt.Sprintf("version %d is complete: satchel trust %s on one machine of the mesh is enough, it travels from there", last.Version, file))
	}
}

// replaceFile puts text in place of what a file holds: whoever reads it, also after a power cut, finds the old text
// or the new one. The mode stays.
//
//	temp in the same directory ─► fsync ─► rename over the file ─► fsync of the directory
func replaceFile(file string, text []byte) (err error) {
	defer func() {
		if errors.Is(err, fs.ErrPermission) {
			err = advise(p2p.CodeReadOnly, "the file is replaced as a whole: copy it to a directory that you can write, and change it there", err)
		}
		if err != nil {
			err = fmt.Errorf("writing %s: %w", file, err)
		}
	}()
	real, err := filepath.EvalSymlinks(file) // a link stays one
	if err != nil {
		return err
	}
	info, err := os.Stat(real)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(real), "."+filepath.Base(real)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	for _, step := range []func() error{func() error { return tmp.Chmod(info.Mode().Perm()) }, tmp.Sync} {
		if err == nil {
			err = step()
		}
	}
	if c := tmp.Close(); err == nil {
		err = c
	}
	if err == nil {
		err = os.Rename(tmp.Name(), real)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	dir, err := os.Open(filepath.Dir(real))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// readPublic reads a public key, or the public half of a private one.
func readPublic(file string) (announce.PublicKey, error) {
	text, _, err := readSmall(file, maxKeyFile)
	if err != nil {
		return announce.PublicKey{}, fmt.Errorf("reading the key: %w", err)
	}
	if private, err := announce.ParsePrivateKey(text); err == nil {
		return private.Public(), nil
	}
	key, err := announce.ParsePublicKey(text)
	if err != nil {
		return key, advise(p2p.CodeBadInput, "give a file that \"satchel keygen\" made: FILE or FILE.pub", fmt.Errorf("reading the key %s: %w", file, err))
	}
	return key, nil
}

// keyPrefix is what names a key by its id: 4 of its 16 digits or more.
var keyPrefix = regexp.MustCompile(`^[0-9a-fA-F]{4,16}$`)

// namedKey finds the key that arg names: by the beginning of its id, when it is in the root file, or by a key file.
// A file whose name looks like an id is given as ./NAME.
func namedKey(f *announce.RootFile, arg string) (announce.PublicKey, error) {
	if !keyPrefix.MatchString(arg) {
		return readPublic(arg)
	}
	known := slices.Clone(f.Last().Keys)
	if old := f.Complete(); old != nil {
		known = append(known, old.Keys...) // a draft may have lost it
	}
	var found []announce.PublicKey
	var ids []string
	for _, k := range known {
		if id := k.ID().String(); strings.HasPrefix(id, strings.ToLower(arg)) && !slices.Contains(found, k) {
			found, ids = append(found, k), append(ids, id)
		}
	}
	switch len(found) {
	case 0:
		return announce.PublicKey{}, advise(p2p.CodeNotFound, "see \"satchel root show\"; a file of that name is given as ./"+arg,
			fmt.Errorf("no key of the root has an id that begins with %s", arg))
	case 1:
		return found[0], nil
	}
	return announce.PublicKey{}, advise(p2p.CodeBadInput, "give more of its id", fmt.Errorf("more than one key begins with %s: %s", arg, strings.Join(ids, ", ")))
}

// seatFlags are --role and --product, which say what a key is given or loses.
type seatFlags struct{ roles, products []string }

func (s *seatFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&s.roles, "role", nil, "`ROLE` root, timestamp or wake; may be repeated")
	cmd.Flags().StringArrayVar(&s.products, "product", nil, "`PATTERN` of products; may be repeated")
	completeRoles(cmd)
}

func completeRoles(cmd *cobra.Command) {
	cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]cobra.Completion{"root", "timestamp", "wake"}, cobra.ShellCompDirectiveNoFileComp))
}

func (s *seatFlags) seats() ([]announce.Seat, error) {
	var out []announce.Seat
	for _, name := range s.roles {
		role, err := roleNamed(name)
		if err != nil {
			return nil, err
		}
		out = append(out, announce.Seat{Role: role})
	}
	for _, p := range s.products {
		if err := checkPattern(p); err != nil {
			return nil, err
		}
		out = append(out, announce.Seat{Pattern: p})
	}
	return out, nil
}

func roleNamed(name string) (announce.Role, error) {
	for role := announce.RoleRoot; role <= announce.RoleWake; role++ {
		if role.String() == name {
			return role, nil
		}
	}
	return 0, badUsage("the roles are root, timestamp and wake", "there is no role %q", name)
}

func checkPattern(p string) error {
	if err := announce.ValidPattern(p); err != nil {
		return badUsage(`a pattern looks like xo-os, lessons.* or *`, "%w", err)
	}
	return nil
}

// seatFlag is how a seat is given on a command line.
func seatFlag(s announce.Seat) string {
	if s.Pattern == "" {
		return "--role " + s.Role.String()
	}
	return "--product '" + s.Pattern + "'"
}

// setThreshold says how many of the keys of a seat must sign.
func setThreshold(file string, next *announce.Root, s announce.Seat, n int) error {
	rule, ok := next.Seat(s)
	if !ok {
		return noSeat(file, next, s)
	}
	if n < 1 || n > len(rule.Keys) {
		return advise(p2p.CodeBadInput, fmt.Sprintf("give one from 1 to %d, or more keys first: satchel root add-key %s KEY %s", len(rule.Keys), file, seatFlag(s)),
			fmt.Errorf("%s: a threshold of %d cannot be with %s", s, n, count(len(rule.Keys), "key", "keys")))
	}
	rule.Threshold = n
	next.SetSeat(s, rule)
	return nil
}

// noSeat is the error about a role or a rule that the root does not have.
func noSeat(file string, next *announce.Root, s announce.Seat) error {
	var have []string
	for _, other := range next.Seats() {
		if (other.Pattern == "") == (s.Pattern == "") {
			have = append(have, strings.TrimPrefix(strings.TrimPrefix(other.String(), "role "), "product "))
		}
	}
	what := "nobody has " + s.String()
	if s.Pattern != "" {
		what = "there is no rule for " + s.String()
	}
	return advise(p2p.CodeNotFound, fmt.Sprintf("there are %s; a key makes another: satchel root add-key %s KEY %s", strings.Join(have, ", "), file, seatFlag(s)),
		errors.New(what))
}

// mayWords are what a rule may allow.
var mayWords = []string{"wake", "setuid", "names", "link-out", "run"}

// may is the flag of a rule that a word of --may stands for.
func may(p *announce.ProductRule, word string) (*bool, error) {
	switch word {
	case "wake":
		return &p.MayWake, nil
	case "setuid":
		return &p.MaySetuid, nil
	case "names":
		return &p.MayNames, nil
	case "link-out":
		return &p.MayLinkOut, nil
	case "run":
		return &p.MayRun, nil
	}
	return nil, badUsage("what a product may is any of "+strings.Join(mayWords, ", "), "there is no %q that a product may", word)
}

// mayList names what a rule allows.
func mayList(p announce.ProductRule) []string {
	return slices.DeleteFunc(slices.Clone(mayWords), func(word string) bool {
		on, err := may(&p, word)
		return err != nil || !*on
	})
}

func checkClass(class string) error {
	if !slices.Contains([]string{announce.ClassContent, announce.ClassSystem, announce.ClassBookkeeping}, class) {
		return badUsage("a class is content (switched at once), system (switched at boot) or bookkeeping (never installed)", "there is no class %q", class)
	}
	return nil
}

// parseDay reads a date; never is 0.
func parseDay(s string) (int64, error) {
	if s == "never" {
		return 0, nil
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || t.Unix() <= 0 {
		return 0, badUsage("give it as 2028-09-01, or never", "reading --renew-by %q: it is not a date", s)
	}
	return t.Unix(), nil
}

// atLeast is cobra.MinimumNArgs in words; the last name may be given more than once.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s is missing", names[len(args)])
		}
		return nil
	}
}

func idStrings(ids []announce.KeyID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}
