// What a dashboard is, by Grafana's own published types: a test puts each dashboard's JSON where this type is wanted, and
// the compiler says what Grafana doesn't know, down to the options of each kind of panel.

import type {
    AnnotationQuery,
    Dashboard,
    FieldConfig,
    FieldConfigSource,
    Panel,
    RowPanel,
} from '@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// A type as JSON has it: the values of enums instead of their names.
type Json<T> = T extends string
    ? `${T}`
    : T extends number
      ? `${number}` extends `${T}` ? number : `${T}` extends `${infer N extends number}` ? N : never
      : T extends (infer U)[]
        ? Json<U>[]
        : T extends object
          ? { [K in keyof T]: Json<T[K]> }
          : T;

// The package leaves queries to their data sources: this is what Prometheus's takes.
interface Query {
    refId: string;
    expr: string;
    datasource?: { type: 'prometheus'; uid: string };
    editorMode?: 'code' | 'builder';
    format?: 'time_series' | 'table' | 'heatmap';
    instant?: boolean;
    interval?: string;
    legendFormat?: string;
    range?: boolean;
}

interface Link {
    title: string;
    url: string;
    targetBlank?: boolean;
}

// A panel that can't lack what every panel here must have.
type Of<Kind extends string, Options, Custom> = Omit<Panel, 'type' | 'options' | 'targets' | 'fieldConfig'> &
    Required<Pick<Panel, 'title' | 'description' | 'datasource' | 'gridPos'>> & {
        type: Kind;
        options: Options;
        targets: Query[];
        fieldConfig: Omit<FieldConfigSource, 'defaults'> & {
            defaults: Omit<FieldConfig, 'custom' | 'links'> &
                Required<Pick<FieldConfig, 'unit' | 'thresholds'>> & { custom: Partial<Custom>; links: Link[] };
        };
    };

type AnyPanel =
    | Of<'heatmap', heatmap.Options, heatmap.FieldConfig>
    | Of<'stat', stat.Options, Record<string, never>>
    | Of<'state-timeline', timeline.Options, timeline.FieldConfig>
    | Of<'table', Omit<table.Options, 'frameIndex'>, table.FieldConfig>
    | Of<'timeseries', timeseries.Options, timeseries.FieldConfig>
    | RowPanel;

// Prometheus's annotations name their texts beside the query.
type Annotation = Omit<AnnotationQuery, 'target'> & {
    target: Query;
    titleFormat: string;
    textFormat: string;
    tagKeys: string;
};

export type Page = Json<
    Omit<Required<Pick<Dashboard, 'uid' | 'title' | 'description' | 'templating'>> & Dashboard, 'panels' | 'annotations'> & {
        panels: AnyPanel[];
        annotations: { list: Annotation[] };
    }
>;
