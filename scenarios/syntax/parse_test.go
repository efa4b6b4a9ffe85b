// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// script puts steps into a scenario that is right otherwise.
func script(steps string) string {
	return "# A test.\nworlds prog\ntopology two-pods\n" + steps + "\n"
}

const service = `
-- web.yaml --
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector:
    app: web
  ports:
  - port: 80
`

func TestAScenarioIsReadAsItIsWritten(t *testing.T) {
	f, err := Parse("dir/name.txtar", []byte(`# A pod reaches a service,
# and more.
worlds prog   # where
families ipv6
pod client app=client
pod other/web app=web role=x http:8080/tcp
outside internet
silent internet

apply web.yaml
[ipv6] connect client -> tcp/web.default:80 from 4000 as c \
    via other/web seen-from client says "a b" hears "# no comment"
eventually ping client -> internet fails timeout
send client ip(dst=other/web ttl=1) tcp(sport=5000 dport=80 flags=SA) payload("x")
advance 1h30m
close c
`+service))
	require.NoError(t, err)
	require.Equal(t, "name", f.Name)
	require.Equal(t, "A pod reaches a service, and more.", f.Description)
	require.Equal(t, []World{Prog}, f.Worlds)
	require.Equal(t, []Family{IPv6}, f.Families)
	require.Equal(t, map[string]string{"app": "web", "role": "x"}, f.Pods[1].Labels)
	require.Equal(t, []ContainerPort{{"http", 8080, model.ProtocolTCP}}, f.Pods[1].Ports)
	require.Len(t, f.Steps, 6)
	says, hears := "a b", "# no comment"
	require.Equal(t, Step{
		Pos: Pos{"dir/name.txtar", 11}, Only: IPv6,
		Text: `[ipv6] connect client -> tcp/web.default:80 from 4000 as c via other/web seen-from client says "a b" hears "# no comment"`,
		Verb: &Connect{From: "client", To: Target{model.ProtocolTCP, "web.default", 80}, Sport: 4000, As: "c",
			Via: "other/web", Seen: "client", Says: &says, Hears: &hears},
	}, f.Steps[1])
	require.True(t, f.Steps[2].Eventually)
	require.Equal(t, Timeout, f.Steps[2].Verb.(*Ping).Fails)
	require.Equal(t, []Layer{
		{"ip", []Assignment{{"dst", "other/web"}, {"ttl", "1"}}},
		{"tcp", []Assignment{{"sport", "5000"}, {"dport", "80"}, {"flags", "SA"}}},
		{"payload", []Assignment{{"text", "x"}}},
	}, f.Steps[3].Verb.(*Send).Layers)
	require.Equal(t, 90*time.Minute, f.Steps[4].Verb.(*Advance).By)
}

func TestMistakesNameTheirPlaceAndWhatWasExpected(t *testing.T) {
	tests := map[string]struct {
		source string
		line   string // file:line
		want   string
	}{
		"an unknown verb":                     {script("conect client -> tcp/web:80"), "x.txtar:4:", "did you mean 'connect'?"},
		"an unknown verb lists the verbs":     {script("frobnicate"), "x.txtar:4:", "verbs: advance, apply"},
		"a missing arrow":                     {script("connect client to tcp/web:80"), "x.txtar:4:", "expected '->', found 'to' at column 16"},
		"a target without a protocol":         {script("connect client -> web:80"), "x.txtar:4:", "like tcp/web.default:80, found 'web:80'"},
		"a port out of range":                 {script("connect client -> tcp/web:70000"), "x.txtar:4:", "a port from 1 to 65535, found '70000'"},
		"a host that is not there":            {script("connect clint -> tcp/web:80"), "x.txtar:4:", "there is no host clint: expected one of node, client, web, internet"},
		"a target that is not there":          {script("connect client -> tcp/wep:80"), "x.txtar:4:", "wep is no host"},
		"a service that is not there":         {script("connect client -> tcp/api.default:80"), "x.txtar:4:", "no attached file has a service api in namespace default"},
		"an unknown failure":                  {script("connect client -> tcp/web:80 fails badly"), "x.txtar:4:", "expected refused, timeout or reset, found 'badly'"},
		"a failure that is answered":          {script(`connect client -> tcp/web:80 fails refused hears "x"`), "x.txtar:4:", "has no server and no answer"},
		"a file that is not there":            {script("apply web.yaml"), "x.txtar:4:", "there is no file web.yaml behind the script"},
		"a file that nobody uses":             {script("ping client -> web") + service, "x.txtar:6:", "no step uses web.yaml"},
		"an unknown layer":                    {script("send client tpc(dport=80)"), "x.txtar:4:", "expected a layer, found 'tpc' at column 13"},
		"an unknown field":                    {script("send client tcp(dprot=80)"), "x.txtar:4:", "tcp has no field 'dprot' at column 17: expected one of sport, dport"},
		"a field twice":                       {script("send client tcp(dport=80 dport=81)"), "x.txtar:4:", "twice"},
		"a value out of range":                {script("send client ip(dst=web) tcp(dport=70000)"), "x.txtar:4:", "expected a number from 0 to 65535"},
		"a flag that is none":                 {script("send client ip(dst=web) tcp(flags=SX)"), "x.txtar:4:", "expected letters of FSRPAUEC"},
		"an address that is none":             {script("send client ip(dst=nowhere)"), "x.txtar:4:", "expected an address or a host's name"},
		"a bracket that is not closed":        {script("send client tcp(dport=80"), "x.txtar:4:", "or ')', found the end of the line"},
		"a quote that is not closed":          {script(`say c "hello`), "x.txtar:4:", "no closing quote"},
		"a truncation that is expected":       {script("expect client truncate(30)"), "x.txtar:4:", "cannot be expected"},
		"an exchange that is not open":        {script(`say c "hello"`), "x.txtar:4:", "no exchange is called c here"},
		"an exchange that is closed":          {script("connect client -> tcp/web:80 as c\nclose c\nclose c"), "x.txtar:6:", "no exchange is called c here"},
		"an exchange that is open already":    {script("connect client -> tcp/web:80 as c\nconnect client -> tcp/web:80 as c"), "x.txtar:5:", "called c already, since line 4"},
		"an unknown reason":                   {script("dropped polcy-ingress"), "x.txtar:4:", "unknown reason 'polcy-ingress'"},
		"an unknown verdict field":            {script("send client ip(dst=web)\nverdict drop raison=x"), "x.txtar:5:", "expected one of at, endpoint, flow"},
		"a verdict value":                     {script("send client ip(dst=web)\nverdict forward out=west"), "x.txtar:5:", "out=west: expected local, host, device, tunnel, self, none"},
		"a verdict on nothing":                {script("verdict forward"), "x.txtar:4:", "no frame was sent before"},
		"a verdict in a world without":        {"worlds prog netns\ntopology two-pods\nsend client ip(dst=web)\nverdict forward\n", "x.txtar:4:", "only world prog has this"},
		"a pod renewed in a world without":    {"worlds prog netns\ntopology two-pods\nrenew pod/web\n", "x.txtar:3:", "only world prog has this"},
		"a namespace that is renewed":         {script("renew namespace/default"), "x.txtar:4:", "only a pod is renewed, not a namespace"},
		"tcx where nothing is attached":       {"worlds prog\ntopology two-pods\nuses tcx from 6.6\n", "x.txtar:3:", "attaches programs to nothing"},
		"without in a world that shares":      {"worlds prog netns\nwithout tcx\ntopology two-pods\nping client -> web\n", "x.txtar:1:", "only world netns"},
		"sockets in a world without":          {"worlds prog netns\ntopology two-pods\nsockets\nping client -> web\n", "x.txtar:1:", "only world netns runs programs at the nodes' sockets"},
		"a mapped socket in a world without":  {script("[ipv4] connect client -> tcp/web:80 mapped"), "x.txtar:4:", "only world netns has sockets that are unconnected or mapped"},
		"a mapped socket that speaks IPv6":    {"worlds netns\ntopology two-pods\nconnect client -> tcp/web:80 mapped\n", "x.txtar:3:", "a mapped socket speaks IPv4"},
		"a stream without a connection":       {"worlds netns\ntopology two-pods\nconnect client -> tcp/web:80 unconnected\n", "x.txtar:3:", "only a socket of udp may be unconnected"},
		"a feature that is none":              {script("uses magic"), "x.txtar:", "a feature (tcx, coarse-clock, csum-ipv6)"},
		"a feature twice":                     {"worlds netns\nwithout tcx tcx\ntopology two-pods\nping client -> web\n", "x.txtar:2:", "each once, found 'tcx'"},
		"a feature from no release":           {script("uses csum-ipv6 from six"), "x.txtar:", "a release like 6.6, found 'six'"},
		"a silent node in a world without":    {"worlds netns\ntopology two-pods\nsilent node\nping client -> web\n", "x.txtar:1:", "only world prog has this"},
		"a duration that is none":             {script("advance 61"), "x.txtar:4:", "a duration like 61s or 6h"},
		"an object that is not named":         {script("delete web"), "x.txtar:4:", "expected KIND/[NAMESPACE/]NAME"},
		"a header behind a step":              {script("ping client -> web\npod late"), "x.txtar:5:", "expected before the first step, which is at line 4"},
		"a pod twice":                         {"worlds prog\npod a\npod a\nping a -> a\n", "x.txtar:3:", "a host a already"},
		"a pod's name":                        {"worlds prog\npod A.b\nping a -> a\n", "x.txtar:2:", "cannot be a name"},
		"a world that is none":                {"worlds moon\ntopology two-pods\nping client -> web\n", "x.txtar:1:", "a world of prog, netns, cluster, found 'moon'"},
		"a topology that is none":             {"worlds prog\ntopology ring\n", "x.txtar:2:", "expected a topology (four-pods"},
		"no worlds":                           {"topology two-pods\nping client -> web\n", "x.txtar:1:", "no worlds are declared"},
		"no steps":                            {"worlds prog\ntopology two-pods\n", "x.txtar:1:", "there are no steps"},
		"nothing at all":                      {"", "x.txtar:1:", "no worlds are declared"},
		"a step for a family that is not run": {"worlds prog\nfamilies ipv4\ntopology two-pods\n[ipv6] ping client -> web\n", "x.txtar:4:", "is for ipv6"},
		"an object's unknown field":           {script("apply a.yaml") + "\n-- a.yaml --\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  selecter: {}\n", "x.txtar:12:", "selecter"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.txtar", []byte(test.source))
			require.Error(t, err)
			found := false
			for line := range strings.Lines(err.Error()) {
				found = found || strings.HasPrefix(line, test.line) && strings.Contains(line, test.want)
			}
			found = found || strings.Contains(err.Error(), test.line) && strings.Contains(err.Error(), test.want)
			require.True(t, found, "expected %s … %s in:\n%v", test.line, test.want, err)
		})
	}
}

func TestEveryMistakeIsReported(t *testing.T) {
	_, err := Parse("x.txtar", []byte(script("ping nobody -> web\nping client -> nobody\nconnect client -> tcp/web:80 via nobody")))
	for _, line := range []string{"x.txtar:4:", "x.txtar:5:", "x.txtar:6:"} {
		require.ErrorContains(t, err, line)
	}
}

func FuzzParse(f *testing.F) {
	library, err := filepath.Glob("../library/*.txtar")
	require.NoError(f, err)
	require.NotEmpty(f, library)
	for _, name := range library {
		data, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("fuzz.txtar", data)
		if (file == nil) == (err == nil) {
			t.Fatalf("file %v and error %v", file, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "fuzz.txtar:") {
			t.Fatalf("an error without a place: %v", err)
		}
		if err == nil && (len(file.Steps) == 0 || len(file.Worlds) == 0 || len(file.Families) == 0) {
			t.Fatalf("a scenario that cannot run has no error")
		}
	})
}

func TestParseUses(t *testing.T) {
	for line, want := range map[string]Uses{
		"uses csum-ipv6":                               {Feature: "csum-ipv6"},
		"uses no coarse-clock":                         {Feature: "coarse-clock", Not: true},
		"uses csum-ipv6 from 6.16":                     {Feature: "csum-ipv6", From: "6.16", Backported: []string{}},
		"uses csum-ipv6 from 6.16 backported 5.10 6.1": {Feature: "csum-ipv6", From: "6.16", Backported: []string{"5.10", "6.1"}},
	} {
		t.Run(line, func(t *testing.T) {
			f, err := Parse("x.txtar", []byte(script(line)))
			require.NoError(t, err)
			require.Equal(t, &want, f.Steps[len(f.Steps)-1].Verb)
		})
	}
}

func TestWhatIsNoTextIsRefusedAtOnce(t *testing.T) {
	for name, tt := range map[string]struct{ data, where, why string }{
		"a byte order mark": {"\xef\xbb\xbf" + script(""), "x.txtar:1: ", "it begins with a byte order mark: save it as UTF-8 without one"},
		"UTF-16":            {"\xff\xfew\x00", "x.txtar:1: ", "it is UTF-16"},
		"a binary file":     {"\x7fELF\x02\x01\n\x00\x00", "x.txtar:2: ", "it is no text"},
		"another encoding":  {"# caf\xe9\n", "x.txtar:1: ", "it is no text: a scenario is written in UTF-8"},
		"a line of 1 MB":    {"# \n" + strings.Repeat("a", 1<<20) + "\n", "x.txtar:2: ", "the line is 1048577 octets long, and at most 65536 are read"},
		"a file of 9 MB":    {strings.Repeat("# a\n", 9<<18), "x.txtar:1: ", "it is longer than 8 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.txtar", []byte(tt.data))
			require.ErrorContains(t, err, tt.where+tt.why)
			require.NotContains(t, err.Error(), "\n", "it is one mistake")
		})
	}
}
