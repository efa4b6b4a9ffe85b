// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/cover"
)

func TestEveryExcusedLineIsThere(t *testing.T) {
	for _, e := range excuses() {
		require.NotEmpty(t, e.Lines(), "%s behind %q: the line has changed; see whether a frame reaches it now", e, e.Before)
	}
}

func TestAnExcuseIsBoundToTheTextOfTwoLines(t *testing.T) {
	all, err := ParseExcuses("# a comment\n\ncontainer.bpf.c\n\tif (!s || !ctl)\n\treturn CTX_DROP;\n\tbecause an array has all of its elements\n")
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Len(t, all[0].Lines(), 1)
	require.Equal(t, "an array has all of its elements", all[0].Why)
	all[0].Before = "if (!s)"
	require.Empty(t, all[0].Lines())
	_, err = ParseExcuses("container.bpf.c\nreturn 0;")
	require.ErrorContains(t, err, "is not a file, two lines of it and a reason")
}

// ran makes the records of one run of a program: a frame that is no IP.
func ran(t *testing.T) []cover.Record {
	var lives cover.Lives
	c := lives.Counters()
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	spec, err := bpf.LoadContainer()
	require.NoError(t, err)
	for _, m := range spec.Maps {
		if m.Type != ebpf.Array && m.Type != ebpf.RingBuf {
			m.MaxEntries = min(m.MaxEntries, 64)
		}
	}
	require.NoError(t, c.Edit(spec), "this test needs root")
	loaded, err := ebpf.NewCollection(spec)
	require.NoError(t, err)
	defer loaded.Close()
	frame := make([]byte, 64)
	frame[12], frame[13] = 0x88, 0xcc
	_, err = loaded.Programs[bpf.ContainerProgFromContainer].Run(&ebpf.RunOptions{Data: frame})
	require.NoError(t, err)
	return c.Take()
}

// lineOf finds a line by its text.
func lineOf(t *testing.T, file, text string) int {
	source, err := fs.ReadFile(bpf.Sources(), file)
	require.NoError(t, err)
	before, _, found := strings.Cut(string(source), text)
	require.True(t, found, "%s has no %q", file, text)
	return strings.Count(before, "\n") + 1
}

func TestAReportTellsLinesByWhatCameOfThem(t *testing.T) {
	c, err := New()
	require.NoError(t, err)
	records := ran(t)
	require.NoError(t, c.Add("first/ipv4", "6.18", records))
	records[0].Live = nil
	require.NoError(t, c.Add("second/ipv4", "6.18", records))
	r := c.Report()
	require.Equal(t, []string{"host.bpf.c", "socket.bpf.c"}, r.Apart)
	require.Empty(t, r.Alone, "both reach the same")

	refused := r.line("container.bpf.c", lineOf(t, "container.bpf.c", "if (ctx_has_vlan(ctx) || !is_ip(ctx)) {"))
	require.Equal(t, Reached, refused.State)
	require.EqualValues(t, 2, refused.Count)
	require.Equal(t, 2, refused.Scenarios)
	missed := lineOf(t, "container.bpf.c", "pkt->out = OUT_LOCAL;")
	require.Equal(t, Missed, r.line("container.bpf.c", missed).State)
	require.Nil(t, r.line("container.bpf.c", lineOf(t, "container.bpf.c", "/* The hooks of a pod's")))

	elsewhere, err := New()
	require.NoError(t, err)
	require.NoError(t, elsewhere.Add("first/ipv4", "6.18", records))
	require.Equal(t, Dead, elsewhere.Report().line("container.bpf.c", missed).State, "nothing was said to be live")

	require.NoError(t, c.Add("third/ipv4", "6.18", nil))
	require.Regexp(t, `^cover: no program of host.bpf.c ran.*\n.*socket.bpf.c.*\ncover: \d+\.\d % of lines reached \(\d+ of \d+\), \d+\.\d % of branches \(\d+ of \d+\)$`, c.Report().Summary())
	require.NoError(t, c.Add("third/ipv4", "5.10", ran(t)))
	require.Regexp(t, `\ncover: on 5.10, \d+\.\d % .*\ncover: on 6.18, \d+\.\d % .*\ncover: \d+\.\d % `, c.Report().Summary())
	records[0].Shape = "other"
	err = c.Add("fourth/ipv4", "6.18", records)
	require.ErrorIs(t, err, cover.ErrRecord)
	require.ErrorContains(t, err, "scenario fourth/ipv4 on kernel 6.18")
}

func TestAReportIsKeptAsPagesAndLCOV(t *testing.T) {
	c, err := New()
	require.NoError(t, err)
	require.NoError(t, c.Add("first/ipv4", "6.18", ran(t)))
	r := c.Report()
	dir := filepath.Join(t.TempDir(), "made")
	require.NoError(t, r.Write(dir))

	index, err := os.ReadFile(filepath.Join(dir, "index.html"))
	require.NoError(t, err)
	require.Contains(t, string(index), `<a href="lib.packet.h.html">lib/packet.h</a>`)
	page, err := os.ReadFile(filepath.Join(dir, "container.bpf.c.html"))
	require.NoError(t, err)
	require.Contains(t, string(page), `title="reached by first/ipv4 alone"`)
	require.Contains(t, string(page), "#include &#34;lib/forward.h&#34;", "a source is text")
}

func TestLCOVHasSumsOfWhatItLists(t *testing.T) {
	c, err := New()
	require.NoError(t, err)
	require.NoError(t, c.Add("first/ipv4", "6.18", ran(t)))
	var out bytes.Buffer
	require.NoError(t, c.Report().LCOV(&out))
	records := strings.Split(strings.TrimSuffix(out.String(), "end_of_record\n"), "end_of_record\n")
	require.Greater(t, len(records), 3)
	for _, record := range records {
		require.Regexp(t, `^TN:\nSF:bpf/[a-z_./]+\.[ch]\n`, record)
		for list, sum := range map[string]string{"DA:": "LF:", "BRDA:": "BRF:", "FN:": "FNF:"} {
			require.Contains(t, record, "\n"+sum+strconv.Itoa(strings.Count(record, "\n"+list))+"\n")
		}
	}
}

func TestAMapTellsWhatOneRunReached(t *testing.T) {
	spec, err := bpf.LoadContainer()
	require.NoError(t, err)
	m, err := NewMap(spec)
	require.NoError(t, err)
	records := ran(t)
	run, err := m.Read(records)
	require.NoError(t, err)
	require.Equal(t, []string{bpf.ContainerProgFromContainer}, run.Programs)
	require.NotEmpty(t, run.Lines["container.bpf.c"])
	require.IsIncreasing(t, run.Lines["lib/verdict.h"])
	require.Empty(t, run.Lines["lib/nat.h"], "a frame that is no IP is not translated")
	for file, lines := range run.Lines {
		for _, l := range lines {
			require.True(t, m.HasCode(file, l), "%s:%d", file, l)
		}
	}
	require.False(t, m.HasCode("container.bpf.c", 1), "it is a comment")

	host, err := bpf.LoadHost()
	require.NoError(t, err)
	other, err := NewMap(host)
	require.NoError(t, err)
	_, err = other.Read(records)
	require.ErrorIs(t, err, cover.ErrRecord)
}
