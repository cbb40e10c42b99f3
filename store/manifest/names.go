package manifest

import (
	"errors"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// checkName says why some file system would change a name, or take it for another one; nil when none is known that does.
func checkName(name string) error {
	switch last := name[len(name)-1]; {
	case strings.IndexByte(name, '\\') >= 0:
		return errors.New("has a backslash, which separates names on Windows")
	case last == '.' || last == ' ':
		return errors.New("ends with a dot or a space, which Windows drops")
	case isDevice(name):
		return errors.New("is the name of a device on Windows")
	case isAlias(name):
		return errors.New("looks like a short name of FAT, by which another file may be meant")
	case isASCII(name):
		return nil
	case combining(name) > maxCombining:
		return errors.New("has too many combining characters in a row")
	case !norm.NFC.IsNormalString(name):
		return errors.New("is not in Unicode normal form C")
	}
	return nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// isDevice knows the names that open a device in every directory of DOS and Windows, whatever follows behind a dot.
func isDevice(name string) bool {
	if i := strings.IndexAny(name, ".:"); i >= 0 {
		name = name[:i]
	}
	name = strings.ToUpper(strings.TrimRight(name, " "))
	switch name {
	case "CON", "PRN", "AUX", "NUL":
		return true
	}
	digit, ok := strings.CutPrefix(name, "COM")
	if !ok {
		digit, ok = strings.CutPrefix(name, "LPT")
	}
	return ok && (len(digit) == 1 && digit[0] >= '1' && digit[0] <= '9' || digit == "¹" || digit == "²" || digit == "³")
}

// isAlias knows the second names that FAT and NTFS make up for long ones: PROGRA~1, LONGNA~2.TXT.
func isAlias(name string) bool {
	base, ext, _ := strings.Cut(name, ".")
	stem, number, ok := strings.Cut(base, "~")
	return ok && isASCII(name) && stem != "" && len(base) <= 8 && len(ext) <= 3 && number != "" && !strings.ContainsAny(name, " ") &&
		strings.Trim(number, "0123456789") == "" && !strings.Contains(ext, ".")
}

// maxCombining is more than any script needs. Beyond 30 implementations of normalization differ (the Stream-Safe Text
// Format of Unicode Standard Annex 15), and that of golang.org/x/text counts two parts of a Hangul syllable.
const maxCombining = 16

// combining is the length of the longest run of code points that combine with one before them, in normal form D.
func combining(name string) int {
	longest, run := 0, 0
	for i, r := range name {
		p := norm.NFD.PropertiesString(name[i:])
		parts := p.Decomposition()
		if parts == nil {
			parts = []byte(name[i : i+utf8.RuneLen(r)])
		}
		for len(parts) > 0 {
			_, size := utf8.DecodeRune(parts)
			if run++; norm.NFD.Properties(parts).CCC() == 0 {
				run = 0
			}
			longest = max(longest, run)
			parts = parts[size:]
		}
	}
	return longest
}

// ignored lists what file systems that fold case leave out of a name: Default_Ignorable_Code_Point, without what is hidden anyway.
var ignored = [...][2]rune{
	{0x34f, 0x34f}, {0x115f, 0x1160}, {0x17b4, 0x17b5}, {0x180b, 0x180f}, {0x200b, 0x200d}, {0x3164, 0x3164},
	{0xfe00, 0xfe0f}, {0xffa0, 0xffa0}, {0xe0100, 0xe01ef},
}

// folder computes keys. It is for one goroutine; the zero value is ready.
type folder struct {
	fold  *cases.Caser
	ascii []byte
}

// key is what is left of a name when case, Unicode form and ignored characters do not count: two names with one key are
// one file on some file systems. It is NFD(casefold(NFD(name without ignored))), with full case folding, as Linux has it for
// directories that ignore case. It is valid until the next call.
func (f *folder) key(name string) []byte {
	if isASCII(name) {
		f.ascii = append(f.ascii[:0], name...)
		for i, b := range f.ascii {
			if b >= 'A' && b <= 'Z' {
				f.ascii[i] = b + 'a' - 'A'
			}
		}
		return f.ascii
	}
	if f.fold == nil {
		fold := cases.Fold()
		f.fold = &fold
	}
	return norm.NFD.Bytes(f.fold.Bytes(norm.NFD.Bytes([]byte(strings.Map(prepare, name)))))
}

// NameKey is what is left of a name when case, Unicode form and characters without a shape do not count: two names in one directory
// that have the same key are one file on some file systems.
func NameKey(name string) string {
	var f folder
	return string(f.key(name))
}

// prepare drops what is ignored. Of Cherokee letters it makes small ones, which fold to the others: the case folder
// of golang.org/x/text 0.40 exchanges the two.
func prepare(r rune) rune {
	switch {
	case within(ignored[:], r):
		return -1
	case r >= 0x13a0 && r <= 0x13ef:
		return r - 0x13a0 + 0xab70
	case r >= 0x13f0 && r <= 0x13f5:
		return r - 0x13f0 + 0x13f8
	}
	return r
}
