// SPDX-License-Identifier: Apache-2.0

package model

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLifetimes(t *testing.T) {
	var none Lifetimes
	require.Equal(t, 240*time.Second, none.Of(LifetimeTCPFinWait), "RFC 5382 REQ-5")
	l, err := ParseLifetimes("udp=5m, tcp-fin-wait=10m")
	require.NoError(t, err)
	require.Equal(t, []time.Duration{5 * time.Minute, 10 * time.Minute, 30 * time.Second}, []time.Duration{l.Of(LifetimeUDP), l.Of(LifetimeTCPFinWait), l.Of(LifetimeICMP)})
	text, err := l.MarshalText()
	require.NoError(t, err)
	require.Equal(t, "tcp-fin-wait=10m0s,udp=5m0s", string(text))
	var again Lifetimes
	require.NoError(t, again.UnmarshalText(text))
	require.Equal(t, l, again)
	for text, wants := range map[string]string{
		"tcp=4m":               `"tcp" is none: use icmp,`,
		"udp":                  `udp is ""`,
		"udp=1s":               "from 5s to 720h0m0s",
		"udp=1000h":            "from 5s to 720h0m0s",
		"tcp-fin-wait=90500ms": "whole seconds",
	} {
		_, err := ParseLifetimes(text)
		require.ErrorContains(t, err, wants)
	}
}
