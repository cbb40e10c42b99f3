package bus

import (
	"encoding/xml"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"satchel/p2p"
)

func described(t *testing.T) map[string]introspect.Interface {
	t.Helper()
	var node introspect.Node
	if err := xml.Unmarshal([]byte(Interface), &node); err != nil {
		t.Fatal(err)
	}
	if node.Name != string(Path) {
		t.Errorf("the XML describes %q", node.Name)
	}
	out := map[string]introspect.Interface{}
	for _, i := range node.Interfaces {
		out[i.Name] = i
	}
	return out
}

// signatures are those of the arguments in and out.
func signatures(args []introspect.Arg) (in, out string) {
	for _, a := range args {
		if a.Direction == "in" {
			in += a.Type
		} else {
			out += a.Type
		}
	}
	return in, out
}

// The XML and the code describe the same methods.
func TestMethodsAreDescribed(t *testing.T) {
	xml := described(t)
	for iface, v := range (&session{service: &service{}}).exports() {
		var want, got []string
		for _, m := range xml[iface].Methods {
			in, out := signatures(m.Args)
			want = append(want, m.Name+"("+in+")"+out)
		}
		typ := reflect.TypeOf(v)
		for i := range typ.NumMethod() {
			m := typ.Method(i)
			in, out := takes(map[string]any{"": v})[m.Name].String(), ""
			for i := range m.Type.NumOut() - 1 { // the last one is the error
				out += dbus.SignatureOfType(m.Type.Out(i)).String()
			}
			got = append(got, m.Name+"("+in+")"+out)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) || len(got) == 0 {
			t.Errorf("%s: the code has %v, the XML %v", iface, got, want)
		}
	}
}

// The XML and the code describe the same properties, and every key of a product is documented.
func TestPropertiesAreDescribed(t *testing.T) {
	full := &p2p.Status{Products: []p2p.ProductStatus{{Product: "a"}}}
	got := pictureOf(full)
	for _, p := range described(t)[Name].Properties {
		if sig := dbus.SignatureOf(got[p.Name]).String(); sig != p.Type || p.Access != "read" {
			t.Errorf("%s is %q in the code and %q, %s, in the XML", p.Name, sig, p.Type, p.Access)
		}
		delete(got, p.Name)
	}
	if len(got) > 0 {
		t.Errorf("not in the XML: %v", got)
	}
	words := strings.Join(strings.Fields(Interface), " ")
	for key, v := range productEntry(&full.Products[0]) {
		sig := v.Signature().String()
		if !strings.Contains(words, key+" "+sig) {
			t.Errorf("the key %s of type %s is not in the XML", key, sig)
		}
	}
	for _, s := range states {
		if !strings.Contains(Interface, s) {
			t.Errorf("the state %s is not in the XML", s)
		}
	}
}

// The XML and the code describe the same signals.
func TestSignalsAreDescribed(t *testing.T) {
	r1, r2 := rel(1, 1), rel(1, 2)
	made := map[string]string{}
	for _, s := range append(News(pic(), pic(prod(r2, r2, r1, nil))), News(pic(prod(r2, nil, r2, r1)), pic(prod(r2, r2, r1, r2)))...) {
		made[s.Name] = dbus.SignatureOf(s.Args...).String()
	}
	want := map[string]string{}
	for _, s := range described(t)[Name].Signals {
		_, want[s.Name] = signatures(s.Args)
	}
	if !reflect.DeepEqual(made, want) {
		t.Errorf("the code makes %v, the XML has %v", made, want)
	}
}

// Every code of an error has its name in the XML.
func TestErrorsAreDescribed(t *testing.T) {
	for _, code := range []string{p2p.CodeInUse, p2p.CodeNoRoot, p2p.CodeRefused, p2p.CodeOlder, p2p.CodeNotFound, p2p.CodeNotReady,
		p2p.CodeTimeout, p2p.CodeNoSpace, p2p.CodeReadOnly, p2p.CodeBadInput, p2p.CodeOffline, p2p.CodeCorrupt, p2p.CodeConflict,
		p2p.CodeEquivocal, p2p.CodeTooNew, "failed", "busy"} {
		name := errorOf(&p2p.Error{Code: code, Err: errTest}).Name
		short, ok := strings.CutPrefix(name, Name+".Error.")
		if !ok || !strings.Contains(Interface, short) {
			t.Errorf("%s is not in the XML", name)
		}
	}
}
