{{- define "callsight.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* The release's name, unless it lacks the chart's. Room is left for `-streams` and the like. */}}
{{- define "callsight.fullname" -}}
{{- $name := include "callsight.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "callsight.selector" -}}
app.kubernetes.io/name: {{ include "callsight.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "callsight.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "callsight.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "callsight.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "callsight.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image: (list root own), where what `own` sets wins over the values for all. A tag of one's own wins over the digest of
all, or a new version would go unnoticed. */}}
{{- define "callsight.image" -}}
{{- $root := index . 0 }}
{{- $all := $root.Values.image }}
{{- $own := index . 1 | default dict }}
{{- $repository := $own.repository | default $all.repository }}
{{- if $own.digest }}
{{- printf "%s@%s" $repository $own.digest }}
{{- else if $own.tag }}
{{- printf "%s:%s" $repository $own.tag }}
{{- else if $all.digest }}
{{- printf "%s@%s" $repository $all.digest }}
{{- else }}
{{- printf "%s:%s" $repository ($all.tag | default $root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* What the schema can't say. */}}
{{- define "callsight.validate" -}}
{{- $active := index .Values.colours .Values.active }}
{{- if not $active.enabled }}
{{- fail (printf "active is %s, but colours.%s.enabled is false: the service would lead nowhere" .Values.active .Values.active) }}
{{- end }}
{{- range $where, $identity := dict "nats" .Values.nats "streams" .Values.streams "ingest.nats" .Values.ingest.nats }}
{{- $given := list }}
{{- if $identity.creds.secret }}{{ $given = append $given "creds" }}{{ end }}
{{- if $identity.nkey.secret }}{{ $given = append $given "nkey" }}{{ end }}
{{- if or $identity.user $identity.password.secret }}{{ $given = append $given "user" }}{{ end }}
{{- if gt (len $given) 1 }}
{{- fail (printf "%s.%s cannot be used with %s.%s: connect as one user" $where (index $given 1) $where (index $given 0)) }}
{{- end }}
{{- if and $identity.user (not $identity.password.secret) }}
{{- fail (printf "%s.user needs %s.password.secret too" $where $where) }}
{{- end }}
{{- if and $identity.password.secret (not $identity.user) }}
{{- fail (printf "%s.password.secret needs %s.user too" $where $where) }}
{{- end }}
{{- end }}
{{- with .Values.ingest }}
{{- if .enabled }}
{{- $keys := concat .tokenSecrets .tokenKeys }}
{{- if and (not $keys) (not .withoutTokens) }}
{{- fail "ingest needs keys that verify tokens: name secrets in ingest.tokenSecrets (HS256) or ingest.tokenKeys (public keys in PEM, or a JWKS), or accept frames of anybody with ingest.withoutTokens=true" }}
{{- end }}
{{- if and $keys .withoutTokens }}
{{- fail "ingest.withoutTokens cannot be used with ingest.tokenSecrets or ingest.tokenKeys" }}
{{- end }}
{{- if and (not .region) (gt (len $.Values.regions) 1) }}
{{- fail (printf "ingest publishes to one region: set ingest.region to one of %s" (join ", " $.Values.regions)) }}
{{- end }}
{{- if and .region (not (has .region $.Values.regions)) }}
{{- fail (printf "ingest.region is %s, which is not in regions: %s" .region (join ", " $.Values.regions)) }}
{{- end }}
{{- if and .ingress.enabled (not .ingress.hosts) }}
{{- fail "ingest.ingress needs ingest.ingress.hosts: the names under which clients reach it" }}
{{- end }}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) }}
{{- fail "ingest.autoscaling.minReplicas must not exceed ingest.autoscaling.maxReplicas" }}
{{- end }}
{{- end }}
{{- end }}
{{- range concat .Values.nats.urls (.Values.nats.fallbackUrls | default list) }}
{{- if contains "@" . }}
{{- fail "nats.urls and nats.fallbackUrls must not hold users or passwords: name a secret in nats.password, nats.creds or nats.nkey" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Flags for a connection to NATS: (list root identity), as lines of `flag: value`. */}}
{{- define "callsight.natsSettings" -}}
{{- $root := index . 0 }}
{{- $identity := index . 1 }}
{{- $tls := $root.Values.nats.tls }}
nats-url: {{ $root.Values.nats.urls | toJson }}
{{- with $root.Values.nats.fallbackUrls }}
nats-fallback-url: {{ toJson . }}
{{- end }}
{{- if $identity.creds.secret }}
nats-creds: /etc/callsight/nats/user.creds
{{- end }}
{{- if $identity.nkey.secret }}
nats-nkey: /etc/callsight/nats/user.nk
{{- end }}
{{- if $identity.user }}
nats-user: {{ $identity.user | quote }}
nats-password-file: /etc/callsight/nats/password
{{- end }}
{{- if $identity.inboxPrefix }}
nats-inbox-prefix: {{ $identity.inboxPrefix | quote }}
{{- end }}
{{- if $tls.ca.secret }}
nats-ca: /etc/callsight/nats/ca.crt
{{- end }}
{{- if $tls.clientCertificate.secret }}
nats-cert: /etc/callsight/nats/client.crt
nats-key: /etc/callsight/nats/client.key
{{- end }}
{{- if $tls.first }}
nats-tls-first: true
{{- end }}
{{- end }}

{{/* The secrets that those flags name, as the sources of one projected volume: (list root identity). Files of it are renewed
when a secret is. */}}
{{- define "callsight.natsSources" -}}
{{- $identity := index . 1 }}
{{- $tls := (index . 0).Values.nats.tls }}
{{- with $identity.creds }}{{ if .secret }}
- secret: {name: {{ .secret | quote }}, items: [{key: {{ .key | quote }}, path: user.creds}]}
{{- end }}{{ end }}
{{- with $identity.nkey }}{{ if .secret }}
- secret: {name: {{ .secret | quote }}, items: [{key: {{ .key | quote }}, path: user.nk}]}
{{- end }}{{ end }}
{{- with $identity.password }}{{ if .secret }}
- secret: {name: {{ .secret | quote }}, items: [{key: {{ .key | quote }}, path: password}]}
{{- end }}{{ end }}
{{- with $tls.ca }}{{ if .secret }}
- secret: {name: {{ .secret | quote }}, items: [{key: {{ .key | quote }}, path: ca.crt}]}
{{- end }}{{ end }}
{{- with $tls.clientCertificate }}{{ if .secret }}
- secret:
    name: {{ .secret | quote }}
    items: [{key: {{ .cert | quote }}, path: client.crt}, {key: {{ .key | quote }}, path: client.key}]
{{- end }}{{ end }}
{{- end }}

{{/* A line of TOML: (list key value). JSON's strings and lists are TOML's too; its numbers are floats to Helm, which would
write a large whole one with an exponent. */}}
{{- define "callsight.toml" -}}
{{- $value := index . 1 }}
{{- if kindIs "float64" $value }}
{{- if eq $value (floor $value) }}{{ $value = int64 $value }}{{ end }}
{{- end }}
{{- printf "%s = %s" (index . 0) (toJson $value) }}
{{- end }}

{{/* The file that a command's `--config` reads: (list command identity webConfig settings root). */}}
{{- define "callsight.tomlFile" -}}
{{- $web := index . 2 }}
{{- $settings := fromYaml (include "callsight.natsSettings" (list (index . 4) (index . 1))) }}
{{- if $web.secret }}
{{- $_ := set $settings "web-config" (printf "/etc/callsight/web/%s" $web.key) }}
{{- end }}
{{- $settings = mergeOverwrite $settings (index . 3) -}}
[{{ index . 0 }}]
{{- range $key, $value := $settings }}
{{ include "callsight.toml" (list $key $value) }}
{{- end }}
{{- end }}

{{/* The file of a colour's `callsight serve`: (list root colour). */}}
{{- define "callsight.config" -}}
{{- $colour := index . 1 }}
{{- with index . 0 }}
{{- $own := (index .Values.colours $colour).settings | default dict }}
{{- $settings := dict "region" .Values.regions "deployment" $colour "listen" "0.0.0.0:9464" }}
{{- $settings = mergeOverwrite $settings .Values.settings $own }}
{{- include "callsight.tomlFile" (list "serve" .Values.nats .Values.webConfig $settings .) }}
{{- end }}
{{- end }}

{{/* The file of `callsight ingest`. */}}
{{- define "callsight.ingestConfig" -}}
{{- $own := .Values.ingest }}
{{- $region := $own.region | default (first .Values.regions) }}
{{- $settings := dict "region" $region "listen" "0.0.0.0:9464" "drain" (printf "%ds" (int $own.drainSeconds)) }}
{{- if $own.withoutTokens }}
{{- $_ := set $settings "without-tokens" true }}
{{- end }}
{{- range $flag, $prefix := dict "token-secret" "secret" "token-key" "key" }}
{{- $files := list }}
{{- range $index, $_ := index $own (eq $prefix "key" | ternary "tokenKeys" "tokenSecrets") }}
{{- $files = append $files (printf "/etc/callsight/tokens/%s-%d" $prefix $index) }}
{{- end }}
{{- if $files }}
{{- $_ := set $settings $flag $files }}
{{- end }}
{{- end }}
{{- $settings = mergeOverwrite $settings $own.settings }}
{{- include "callsight.tomlFile" (list "ingest" $own.nats $own.webConfig $settings .) }}
{{- end }}

{{/* The image of ingest, as YAML: its own, or the active colour's, so that a rollout renews it when the service switches. */}}
{{- define "callsight.ingestImage" -}}
{{- .Values.ingest.image | default (index .Values.colours .Values.active).image | default dict | toYaml }}
{{- end }}

{{/* The probes of a container: a web config. */}}
{{- define "callsight.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: http, scheme: {{ .scheme }}}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: http, scheme: {{ .scheme }}}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: http, scheme: {{ .scheme }}}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end }}

{{- define "callsight.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "callsight.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods may run. */}}
{{- define "callsight.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}
