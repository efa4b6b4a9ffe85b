// SPDX-License-Identifier: Apache-2.0

package frame

// Difference is one field that is not as it was expected.
type Difference struct {
	Layer, Field string // Field is empty when the whole layer is missing
	Want, Got    string
}

// Match compares a frame with expected layers: each must be found, in order,
// and every field that it names must be equal. What is not named is not
// looked at. Nothing returned means that it matches.
func Match(want []Layer, data []byte) []Difference {
	got := Decode(data).Layers()
	var out []Difference
	at := 0
	for _, w := range want {
		i := find(w, got, at)
		if i < 0 {
			out = append(out, Difference{Layer: w.Kind, Want: "a " + w.Kind + " layer", Got: "none"})
			continue
		}
		out = append(out, compare(w, got[i])...)
		at = i + 1
	}
	return out
}

func find(want Layer, got []Layer, from int) int {
	for i := from; i < len(got); i++ {
		g := got[i].Kind
		if g == want.Kind || want.Kind == "icmpv6" && (g == "ns" || g == "na") || want.Kind == "pad" && g == "padding" {
			return i
		}
	}
	return -1
}

func compare(want, got Layer) []Difference {
	var out []Difference
	for _, f := range want.Fields {
		v, ok := got.Get(f.Name)
		if want.Kind == "payload" && f.Name != "text" {
			v, ok = payloadAs(f, got)
		}
		switch {
		case !ok:
			out = append(out, Difference{want.Kind, f.Name, f.Value.String(), "none"})
		case !v.Equal(f.Value):
			out = append(out, Difference{want.Kind, f.Name, f.Value.String(), v.String()})
		}
	}
	return out
}

// payloadAs gives a payload as the field that was asked for.
func payloadAs(f Field, got Layer) (Value, bool) {
	text, ok := got.Get("text")
	if f.Name == "size" {
		return Num(len(text.data)), ok
	}
	text.kind = Bytes
	return text, ok
}
